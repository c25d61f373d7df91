"""Entry points: the command line and the job script. No logic of its own.

    cli                    `ray-warmup`: its commands, and the options of most
    commands               one module for each command, or two
    reports                reports as files, pages and differences
    views                  values as text for people
    terminal               safe printing, JSON documents, messages and exit codes
    run_warmup             a Ray job's entry point

Imports go down this list. Each command imports what it needs when it runs, so that `--help` is quick.
"""
