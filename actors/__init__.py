"""Everything that touches Ray: placement, rank actors, the coordinator, the driver's side.

    client.py        run_warmup(config): connect, start the coordinator, follow it, return the report
    coordinator.py   named actor that owns placement group, rank actors and artifacts, and steps the state machine
    rank_actor.py    the one place where a rank's plain class meets Ray
    rank_group.py    the actors of a run: start, call, replace, kill
    transfer.py      bytes into the object store, owned by the coordinator, handed on as references
    capacity.py, placement.py   the requested resources: whether they fit, requesting and releasing them
    planning.py      the dry run: one probe task per node
    node_task.py     a plain function on every node, with one deadline
    node_caches.py   the cache commands on every node
    local_nodes.py   several Ray nodes on this machine

`warmup/machine/` decides what happens next, and knows nothing of Ray.
"""
