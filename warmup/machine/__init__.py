"""The warmup as a pure state machine: events in, commands out. No Ray, no clock, no I/O of its own.

    commands.py  what the machine asks for: Call a rank, Replace a rank, Adopt an artifact
    state.py     Run: ranks, classes, phase, warnings; everything that happened so far
    pool.py      TaskPool: which rank measures which task next, and what is lost when a rank is
    policy.py    what a failure leads to; leadership.py: who leads next; suspects.py: was it the tactic
    watchdog.py  who is late or silent; node_loss.py: a node is gone, what is left goes back to LOOKUP
    logic.py, probing.py, lookup.py, working.py, delivering.py   one short class per phase
    consensus.py several ranks vote on every short list
    blame.py     the words of a failure
    machine.py   WarmupMachine: steps the phases, watches deadlines, names the culprit
    summary.py   Run -> WarmupReport

The coordinator executes the commands on Ray actors; the tests execute them on nothing at all.
"""
