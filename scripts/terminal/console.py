"""Printing for people: text that somebody else wrote reaches a terminal as text, never as its commands."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from io import TextIOWrapper

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 200
"""Columns where nobody says how many there are: wide enough for every table."""


def wide_console() -> Console:
    """Return a console as wide as the terminal, or WIDTH columns for a log or pipe."""
    console = Console()
    if console.is_terminal:
        return console
    return Console(width=WIDTH)


def quiet_console(console: Console) -> Console:
    """Return a console of the same width that prints nothing."""
    return Console(width=console.width, quiet=True)


def plain(value: object, *, keep: str = "") -> str:
    r"""Escape a value to one line of printable characters.

    Every other character becomes its escape (`\x1b`, `\n`).
    """
    # Paths and errors may hold escape sequences, which a terminal would obey.
    return "".join(c if c.isprintable() or c in keep else _escape(c) for c in str(value))


def plain_lines(value: object) -> str:
    """Escape a text of several lines, keeping its line breaks."""
    return plain(value, keep="\n")


def first_line(value: object) -> str:
    """The first line of a text that has any."""
    return next((line for line in str(value).splitlines() if line.strip()), "")


def say(console: Console, text: object, *, style: str = "", lines: bool = False) -> None:
    """Print one line without markup, colours or wrapping.

    `lines` keeps line breaks.
    """
    written = plain_lines(text) if lines else plain(text)
    console.print(Text(written, style=style), highlight=False, soft_wrap=True)


def say_sentence(console: Console, text: object, *, style: str = "", lines: bool = False) -> None:
    """Print a sentence as `say` does. A terminal that is too narrow for it gets it wrapped between words."""
    if not console.is_terminal:
        say(console, text, style=style, lines=lines)
        return
    written = plain_lines(text) if lines else plain(text)
    console.print(Text(written, style=style), highlight=False)


def complain(error: object) -> None:
    """Tell a person on stderr what went wrong."""
    typer.echo(f"ray-warmup: {plain_lines(error)}", err=True)


def moment(seconds: float) -> str:
    """A time since 1970 as a date in UTC, or as the number that was given where no calendar has it."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"second {seconds:g} since 1970"


def table_of(*columns: object, title: object = None, whole: tuple[str, ...] = ()) -> Table:
    """Create a table that breaks no header word.

    Cells of the columns in `whole` are not broken either.
    """
    heading = None if title is None else Text(plain(title), style="italic")
    table = Table(title=heading, box=box.SIMPLE, pad_edge=False)
    for column in columns:
        name = plain(column)
        widest = max((len(word) for word in name.split()), default=0)
        table.add_column(Text(name), overflow="fold", no_wrap=name in whole, min_width=widest or None)
    return table


def add_row(table: Table, *cells: object) -> None:
    """A row whose cells are shown as they are."""
    table.add_row(*(Text(plain(cell)) for cell in cells))


class PlainFormatter(logging.Formatter):
    """Log lines whose text cannot command the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as usual, control characters escaped."""
        return plain_lines(super().format(record))


def log_to_stderr(level: int) -> None:
    """Send this process' log lines to stderr, and write what an output's encoding lacks as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A log with another encoding must not end a run by a character of a path.
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter(logging.BASIC_FORMAT))
    logging.basicConfig(level=level, handlers=[handler])


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
