"""Real engines that a run starts, records and proves, and the built-in one. Each package imports only those below it.

    launcher, reports      a replica's launcher in a run; the report of such a run
    node                   what a node answers without recording anything
    start                  one start of an engine, from outside
    known_engines          one row for each engine
    vllm, sglang           what differs between them
    front_end, plugin      inside an engine's processes: the child that starts it, and every process that serves
    artifacts              what was recorded on a node
    adapter, machine       the interface to an engine; the state machine of a run
    tuning, builtin        what an engine asks FlashInfer for, tuned in its ranks; the built-in engine
    identity               what a start is known by

`tests/test_import_contracts.py` plants imports the other way, and finds them.
"""
