"""Printing text that somebody else wrote."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from ray_warmup.scripts.terminal.console import PlainFormatter, add_row, moment, plain, say, say_sentence, table_of

COMMANDS = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\ud800"


def printed(width: int = 200) -> Console:
    """A terminal, which would obey what it is sent."""
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, emoji=True)


def text_of(console: Console) -> str:
    """Everything that was printed there."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_commands_are_printed_as_their_escapes() -> None:
    """Escape sequences, direction marks and half surrogates are shown, in lines, titles and cells."""
    console = printed()
    say(console, COMMANDS)
    table = table_of("task", title=COMMANDS)
    add_row(table, COMMANDS)
    console.print(table)
    shown = text_of(console)
    assert shown.count(r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\ud800") == 3
    assert all(character.isprintable() or character == "\n" for character in shown)


@pytest.mark.parametrize("text", ["H100 [/x]", "/data/[prod]/cache", "[bold]", ":smile:", "a\\[b]"])
def test_markup_is_text(text: str) -> None:
    """Square brackets and names of emoji are printed as they are, wherever they stand."""
    console = printed()
    say(console, text)
    table = table_of(text, title=text)
    add_row(table, text)
    console.print(table)
    assert text_of(console).count(text) == 4


def test_a_line_is_one_line() -> None:
    """Text of a file cannot forge a line of ours; only a text that is meant to have lines keeps them."""
    console = printed()
    say(console, "H100\nREADY in 1.00 s")
    say(console, "first\nsecond\r", lines=True)
    assert text_of(console) == "H100\\nREADY in 1.00 s\nfirst\nsecond\\r\n"


@pytest.mark.parametrize("seconds", [1e12, -1e12, 1e300, float("nan"), float("inf")])
def test_a_time_that_no_calendar_has_is_a_number(seconds: float) -> None:
    """It is shown as it was given, not as a crash."""
    assert moment(seconds) == f"second {seconds:g} since 1970"
    assert moment(0) == "1970-01-01 00:00:00 UTC"


def test_log_lines_are_plain() -> None:
    """What a log line quotes from a file is escaped; its own line breaks stay."""
    record = logging.LogRecord("name", logging.WARNING, "file", 1, "odd: %s\nmore", (COMMANDS,), None)
    shown = PlainFormatter("%(message)s").format(record)
    assert shown == "odd: \\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202e\\ud800\nmore"


@pytest.mark.parametrize("width", [80, 60])
def test_header_words_are_never_broken(width: int) -> None:
    """On a narrow terminal cells are folded, the words above them stay whole."""
    console = printed(width)
    table = table_of("key", "generations", "entries", "on disk", "state")
    add_row(table, "a" * 12, "1 2 3*", "12 guarded", "1.2 MiB", "cannot be read: " + "/long/path" * 20)
    console.print(table)
    head = text_of(console).splitlines()[1]
    assert head.split() == ["key", "generations", "entries", "on", "disk", "state"]


def test_an_ordinary_text_is_left_alone() -> None:
    """Letters of every script stay as they are."""
    assert plain("é 漢字 🙂 ~/x y") == "é 漢字 🙂 ~/x y"


def test_a_sentence_is_wrapped_between_words_on_a_terminal_alone() -> None:
    """In a log it stays one line, whatever its width."""
    text = "saved for each next start of these nodes: 6.6 s of compiling, tuning and guarding"
    narrow = Console(file=io.StringIO(), width=60, force_terminal=True, no_color=True)
    log = Console(file=io.StringIO(), width=60)
    for console in (narrow, log):
        say_sentence(console, text)
    assert isinstance(narrow.file, io.StringIO)
    assert isinstance(log.file, io.StringIO)
    lines = narrow.file.getvalue().splitlines()
    assert len(lines) == 2
    assert " ".join(line.strip() for line in lines) == text
    assert log.file.getvalue().splitlines() == [text]
