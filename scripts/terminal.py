"""The console that every command prints on."""

from __future__ import annotations

from rich.console import Console

WIDTH = 200
"""Columns where nobody says how many there are: wide enough for every table."""


def wide_console() -> Console:
    """The terminal as it is; elsewhere (a job's log, a pipe) WIDTH columns."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)
