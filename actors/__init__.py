"""Everything that touches Ray: placement, rank actors, the coordinator, the driver's side.

    client.py        run_warmup(config): connect, start the coordinator, follow it, return the report
    coordinator.py   named actor that owns placement group, rank actors and artifacts; steps the state machine
    rank_actor.py    the one place where a rank's plain class meets Ray
    rank_group.py    the actors of a run: start, call, replace, kill
    transfer.py      bytes into the object store, owned by the coordinator, handed on as references
    capacity.py, placement.py   what is asked for, whether it fits, and giving it back
    planning.py      the dry run: one probe task per node
    node_task.py     a plain function on every node, with one deadline; node_caches.py: the cache commands as such
    local_nodes.py   several Ray nodes on this machine

What is to be done next is decided in `warmup/machine/`, which knows nothing of Ray.
"""
