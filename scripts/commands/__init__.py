"""Commands of `ray-warmup`: what each one takes, whom it asks, and what it prints.

    run, engine_run        `run`, with the built-in engine and with a real one
    run_options, run_ending   options of `run`; its report file, its line in the history, its last line
    plan, env, show        the commands of these names; env has `path`, too
    status, status_watch   `status`, once and with `--watch`
    engine, engine_here    `engine`: its options; recording, proving and showing on this node
    engine_answers         `plan`, `path`, `wait` and `status` for a config of a real engine
    cache, quarantine, remote   `cache` and its subcommands
    cache_scope, scope_options   on which nodes a cache command works, and the options that say so
    config, doctor, key    the commands of these names
    registry, report, runs   `registry` and `sync`, `report`, and `cancel`, `logs`, `history`

Where a command prints more than some lines, what it prints is in `views/`.
"""
