"""What was compiled, as blobs: FlashInfer's modules, Triton's cache entries, the driver's compute cache.

Each room collects contents on the node that compiled and installs them on another so that nothing is compiled there.
`installed.py` puts a whole artifact in place, `environment.py` says what a process needs to find it.
"""
