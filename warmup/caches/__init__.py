"""Compiled code as blobs: FlashInfer's modules, Triton's cache entries, the driver's compute cache.

Each cache kind collects contents on the node that compiled them and installs them on another, so that nothing is
compiled there. `artifact_install.py` installs a whole artifact. `environment.py` names the variables that a process
needs to find it.
"""
