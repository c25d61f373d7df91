"""State of a run: everything that happened so far, as values that the machine alone changes.

    run                    Run, ClassState: all of it, and of one class
    phase                  names of the phases, in their order
    rank                   one rank: where it is, what it answered, what it runs
    modules, store_lookup, confirmations   of a class: modules, answers of stores, tactics that wait for a verdict
    pool, shape_queue      which rank measures which task next, the longest shape first
    silences               ranks without heartbeats

Nothing here decides what comes next.
"""
