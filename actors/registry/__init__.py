"""The registry of a cluster's artifacts, and who asks it.

    registry_actor    the detached actor
    remote_artifacts  the remote store as the registry asks it
    client            find, start and stop the registry
    calls             calls from a process that outlives it
    engine_cluster    the registry as an engine's process asks it

What the registry keeps, and what it decides, is `warmup/registry/`'s.
"""
