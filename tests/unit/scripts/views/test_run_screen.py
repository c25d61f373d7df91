"""A live run as a screen: readable at 80 columns, what needs a look first, quick with a thousand ranks."""

from __future__ import annotations

import io
import time
from dataclasses import replace

import pytest
from rich.console import Console

from ray_warmup.actors.run.status import ClassStatus, RankStatus, RunStatus
from ray_warmup.scripts.commands.status_watch import screen_of
from ray_warmup.scripts.views.run_screen import duration, run_screen, short_task

TASK = "bf16_gemm:cublaslt:bfloat16:k=8192,n=1280@2048"


def rank(number: int, **changes: object) -> RankStatus:
    """A rank that tunes."""
    host = f"gpu-node-{number // 8:03d}.cluster.local"
    busy = RankStatus(number, f"{number:056x}", host, state="alive", doing="tune", task=TASK, for_s=2.0, heard_s=1.0)
    return replace(busy, **changes)


def run(*ranks: RankStatus) -> RunStatus:
    """A run in TUNING."""
    classes = (ClassStatus("c0ffee0123456789", 0, len(ranks), 84, 22, 4, 17, 5, 130.0),)
    return RunStatus(
        *("warmup-x", "bee57bff82016e2b-20261127T234007-4c32", "TUNING", 75.0, 41.2, 1800.0, 22, 84),
        ranks=ranks,
        classes=classes,
        warnings=("rank 5 on node aa is silent in phase TUNING: no heartbeat for 12.0 s",),
    )


def drawn(status: RunStatus, width: int = 80, height: int = 24) -> list[str]:
    """The lines of a screen."""
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=False)
    console.print(run_screen(status, width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_eighty_columns_hold_everything_that_matters() -> None:
    """Phase, deadline, tasks, the class's counts and the time left, each rank's task with its bucket."""
    lines = drawn(run(*(rank(number) for number in range(4))))
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("TUNING  41 s of 1800 s  22/84 tasks")
    assert "c0ffee012345  4      84     22     4        17    5        ~2 min 10 s" in text
    assert "3     gpu-node-000  alive  tune   2.0 s  bf16_gemm k=8192,n=1280@2048" in text
    assert "! rank 5 on node aa is silent" in text


def test_what_needs_a_look_comes_first() -> None:
    """Silent ranks, starting ones, then the longest at one thing; idle ones last."""
    ranks = (
        *(rank(0, doing="idle", task="", for_s=99.0), rank(1), rank(2, for_s=50.0)),
        *(rank(3, state="starting"), rank(4, state="silent", heard_s=12.0)),
    )
    lines = drawn(run(*ranks))
    shown = [line.split()[0] for line in lines if line[:1].isdigit()]
    assert shown == ["4", "3", "2", "1", "0"]
    assert any("silent 12 s" in line for line in lines)


def test_a_thousand_ranks_fit_into_a_screen_and_two_seconds() -> None:
    """What does not fit is one line; the whole list is drawn in time, too."""
    many = run(*(rank(number, doing="tune" if number % 3 else "idle") for number in range(1000)))
    began = time.monotonic()
    lines = drawn(many)
    whole = drawn(many, height=1100)
    assert time.monotonic() - began < 2.0
    assert len(lines) <= 24
    assert any(line.startswith("and 985 more: ") and "idle" in line for line in lines)
    assert sum(line[:1].isdigit() for line in whole) == 1000


def test_an_older_coordinator_is_drawn_as_well() -> None:
    """Without classes, tasks and the phase's age."""
    lines = drawn(RunStatus("warmup-x", "r", "LOADING", 5.0, ranks=(RankStatus(0, "abcdef0123"),)))
    assert [line.rstrip() for line in lines[:2]] == ["LOADING", "run r, begun 5.0 s ago"]
    assert any("abcdef01" in line for line in lines)


def test_text_of_others_cannot_command_the_terminal() -> None:
    """An escape sequence in a task or a warning is shown, not obeyed."""
    lines = drawn(replace(run(rank(0, task="\x1b[2Jx")), warnings=("\x1b[31mred",)))
    assert "\x1b" not in "\n".join(lines)
    assert "\\x1b[2Jx" in "\n".join(lines)


def test_an_empty_cluster_says_that_it_waits() -> None:
    """`--watch` may be started before the run; what cannot be asked is said."""
    console = Console(width=80, file=io.StringIO())
    console.print(screen_of([], [], 80, 24))
    console.print(screen_of([], ["run warmup-x did not answer"], 80, 24))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "no run is active yet" in text
    assert "could not be asked: run warmup-x" in text


@pytest.mark.parametrize(("seconds", "text"), [(5.24, "5.2 s"), (48, "48 s"), (130, "2 min 10 s"), (7500, "2 h 5 min")])
def test_durations_are_for_people(seconds: float, text: str) -> None:
    """One or two units."""
    assert duration(seconds) == text


def test_a_task_keeps_what_tells_it_from_others() -> None:
    """Op, shape and bucket; anything else is left as it is."""
    assert short_task(TASK) == "bf16_gemm k=8192,n=1280@2048"
    assert short_task("module 3 of 9") == "module 3 of 9"
