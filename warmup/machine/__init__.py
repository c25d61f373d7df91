"""The warmup as a pure state machine: events in, commands out. No Ray, no clock, no I/O of its own.

    machine.py            WarmupMachine: steps the phases, watches deadlines, names the culprit
    commands.py           what the machine asks for: Call a rank, Replace a rank, Adopt an artifact
    state.py              Run, ClassState: everything that happened so far
    rank_state.py, module_state.py, store_lookup.py   parts of it: one rank, modules of a class, answers of LOOKUP
    phases.py             names of the phases; phase_sequence.py: their order in a run; phase_logic.py: the base of each
    probing.py, lookup.py, compiling.py, tuning_phases.py, delivery_phases.py   the phases
    recalling.py, lineage.py   rows of a found table, and which of several found tables is used
    pool.py               TaskPool: which rank measures which task next; shape_queue.py: the longest shape first
    consensus.py, peers.py, engine_tuning.py   steps within TUNING; engine_warmups.py: steps within REPLAYING
    judges.py             steps within GUARDING: verdicts of several devices; confirmations.py: those that are missing
    answer_handling.py    what an answer changes in the state
    policy.py             what a failure leads to; failure_window.py: failures that follow the first one
    death_causes.py       whether a tactic is quarantined; leadership.py: the next leader of a class
    node_loss.py          what a lost node leaves to do; on_disk.py: whether every disk has the table at the end
    watchdog.py           ranks that are late; silences.py: ranks without heartbeats; progress.py: what a run waits for
    failure_messages.py, naming.py   text of failures, and how many ranks it names
    garbage_collection.py   Python's cycle collector beside a large machine
    summary.py, task_reports.py   Run -> WarmupReport, and its rows of tasks

The coordinator executes the commands on Ray actors; the simulation and the unit tests execute them without Ray.
"""
