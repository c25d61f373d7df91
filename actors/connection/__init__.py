"""A process's connection to a cluster, from the address to the end.

    addresses         which cluster is meant, and whether anything listens there
    of_runs           the connection of a run
    of_questions      the connection of a command that asks
    opening, closing  how the latter begins and ends, through Ray Client, too
    presence          whether this machine may be a node, told without Ray
    local_nodes       a cluster on this machine alone, with simulated nodes
    sigterm           the handler that Ray replaces when it connects
    control_service   whether the cluster's control service (GCS) is lost

Modules that import Ray do so where it is needed, because a command may have its answer without it.
"""
