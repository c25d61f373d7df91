"""Tuning of what an engine asks FlashInfer for, in the engine's own processes, between its forward and graph capture.

    engine_rank     one rank: joins, answers questions, loads what was found
    frames          messages on a socket
    conductor       the ranks of one replica, driven by the machine that drives every run
    session         sockets around the conductor, in the process that started the engine
    unfinished      finished tasks and quarantined tactics on this node, for the next attempt
    outcome         what was tuned, as contents of the artifact
    allotting       which tasks ranks of other replicas measure, and what comes back
    remote_conductor   those ranks, lot after lot
    relay           what is asked in turn of the two launchers

No rank waits for another one: each runs its forward with default tactics, then joins and is asked. The first two run in
an engine's process.
"""
