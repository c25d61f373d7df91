"""The warmup as a pure state machine: events in, commands out. No Ray, no clock, no I/O of its own.

    machine                WarmupMachine: steps the phases, watches deadlines, names the culprit
    commands               what the machine asks for: Call a rank, Replace a rank, Adopt an artifact
    reports                the run as a report, what its disks hold at the end, what it waits for
    phases                 PROBING to REPLAYING, one class each, and their order
    steps                  what phases consist of or share: leaders, found tables, judges, a lost node
    failures               late ranks, causes of a death, policies, text of failures
    state                  everything that happened so far: run, classes, ranks, the pool of tasks
    naming                 how many ranks a text names
    garbage_collection     Python's cycle collector beside a large machine

The coordinator executes the commands on Ray actors; the simulation and the unit tests execute them without Ray. Imports
go down: machine, reports, phases, steps, failures, state.
"""
