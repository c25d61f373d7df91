"""Every question to a rank and every answer, as frozen values, and how they cross a process border.

    values.py      carried by several messages: Header, Heartbeat, CrashRecord, PoolTask, ...
    questions.py   to a rank: Probe, LookUp, Tune, Pack, Install, Load, ...
    answers.py     from a rank: Probed, LookedUp, Tuned, Packed, Installed, Loaded, ...
    engine.py      to the launcher of a real engine, and its answers
    recorded.py, allotting.py   between an engine's ranks and their conductor, and ranks of other replicas
    replays.py     between a rank and the process that replays a table for it
    wire.py        one `pack`, one `unpack`: bytes at the border, refused by name when they are no such message

`EXPECTED` in `wire.py` pairs each question with its answers.
"""
