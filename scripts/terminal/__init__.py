"""The terminal: what every command prints with, and how it ends.

    console                text and tables, in which nothing that others wrote is a terminal's command
    documents              the JSON document of `--json`
    endings                one message and an exit code at the end, never a traceback
    shell_command          output that a shell evaluates

Nothing here knows which command it serves.
"""
