"""Ray as the rest of `actors/` uses it: nodes, one function on each of them, bytes, metrics, errors.

    membership        the alive nodes, with their resources and labels
    node_task         one function on given nodes
    transfer          bytes in the object store
    metrics_export    metrics by `ray.util.metrics`
    remote_errors     Ray's errors as plain values
    ray_internals     private parts of Ray

Nothing here knows of runs, stores or registries.
"""
