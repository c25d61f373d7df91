"""`status --watch`: begins before the run, follows it, ends after it; a screen on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
from rich.console import Console

from ray_warmup.actors.run.status import RankStatus, RunStatus
from ray_warmup.scripts.commands import status_watch
from ray_warmup.scripts.commands.status_watch import watch

ALTERNATE_SCREEN, BACK = "\x1b[?1049h", "\x1b[?1049l"


def run(phase: str, done: int = 0) -> RunStatus:
    """One rank in a phase."""
    return RunStatus("warmup-x", "r1", phase, 9.0, 3.0, 60.0, done, 10, ranks=(RankStatus(0, "n0", doing="tune"),))


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[list[RunStatus]]:
    """What the cluster answers, one list a look; the last one means that the run is over."""
    given = [[], [], [run("PLACING")], [run("TUNING", 2)], [run("TUNING", 2)], [run("TUNING", 5)], []]
    left: Iterator[list[RunStatus]] = iter(given)
    monkeypatch.setattr(status_watch, "live_runs", lambda problems=None: next(left))
    monkeypatch.setattr(status_watch, "WATCH_S", 0.0)
    return given


def console_of(*, terminal: bool) -> tuple[Console, io.StringIO]:
    """A console that writes to memory."""
    file = io.StringIO()
    return Console(file=file, width=80, height=24, force_terminal=terminal), file


def test_a_terminal_gets_a_screen_of_its_own(answers: list[list[RunStatus]]) -> None:
    """The alternate screen is entered, shows that nothing runs yet, then the run, and is left."""
    console, file = console_of(terminal=True)
    watch(console, as_json=False)
    text = file.getvalue()
    assert text.index(ALTERNATE_SCREEN) < text.index("no run is active yet") < text.index("TUNING") < text.index(BACK)


def test_a_log_gets_lines_and_none_twice(answers: list[list[RunStatus]]) -> None:
    """One line for each change, no screen."""
    console, file = console_of(terminal=False)
    watch(console, as_json=False)
    lines = file.getvalue().splitlines()
    assert [line.partition(";")[0] for line in lines[1:]] == [
        "run r1: PLACING for 3.0 s of 60 s, 0 of 10 tasks",
        "run r1: TUNING for 3.0 s of 60 s, 2 of 10 tasks",
        "run r1: TUNING for 3.0 s of 60 s, 5 of 10 tasks",
    ]
    assert "\x1b" not in file.getvalue()


def test_json_is_one_document_a_look(answers: list[list[RunStatus]], capsys: pytest.CaptureFixture[str]) -> None:
    """For a program that reads them."""
    console, _ = console_of(terminal=True)
    watch(console, as_json=True)
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [document["phase"] for document in documents] == ["PLACING", "TUNING", "TUNING", "TUNING"]


def test_an_interrupt_is_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """No error, and the terminal is given back."""

    def interrupted(problems: list[str] | None = None) -> list[RunStatus]:
        raise KeyboardInterrupt

    monkeypatch.setattr(status_watch, "live_runs", interrupted)
    console, file = console_of(terminal=True)
    watch(console, as_json=False)
    assert BACK in file.getvalue()


def test_a_coordinator_that_is_late_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that does not answer for a moment is still there."""
    looks = iter(([run("TUNING")], "late", [run("GUARDING")], []))

    def live(problems: list[str]) -> list[RunStatus]:
        found = next(looks)
        if found == "late":
            problems.append("run warmup-x is active and did not answer")
            return []
        return found

    monkeypatch.setattr(status_watch, "live_runs", live)
    monkeypatch.setattr(status_watch, "WATCH_S", 0.0)
    console, file = console_of(terminal=True)
    watch(console, as_json=False)
    assert "GUARDING" in file.getvalue()
    assert "did not answer" in file.getvalue()
