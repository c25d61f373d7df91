"""Resources of a run: whether the request fits, what it waits for, and the placement group.

    capacity          whether the nodes can hold the request
    accelerators      whether a node's GPUs are the ones that are asked for
    group             the placement group
    placing           the phase PLACING, which waits for the group
    holders           who holds what a run waits for

Nothing here starts a process.
"""
