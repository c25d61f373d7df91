"""What `run` shows while it goes on: lines, JSON lines, or a screen part below the lines of a terminal."""

from __future__ import annotations

import io
import json
from dataclasses import asdict

import pytest
from rich.console import Console

from ray_warmup.actors.run.status import ClassStatus, RankStatus, RunStatus
from ray_warmup.scripts.views.live_run import JsonView, LineView, LiveView, view_of

TASK = "bf16_gemm:cublaslt:bfloat16:k=8192,n=1280@2048"
STATUS = RunStatus(
    *("warmup-x", "r1", "TUNING", 30.0, 10.0, 1800.0, 4, 10),
    ranks=tuple(RankStatus(rank, "n0", "gpu-0", state="alive", doing="tune", task=TASK) for rank in range(2)),
    classes=(ClassStatus("c0ffee0123456789", 0, 2, 10, 4, 2, 0, 0, 15.0),),
    warnings=("slow -> look",),
)
TUNING = {"event": "phase", "phase": "TUNING", "at": 20.0, "tasks": 10, "hits": 0, "classes": 1}


def text_of(console: Console) -> str:
    """What was written."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def console_of(*, terminal: bool) -> Console:
    """80 columns in memory."""
    return Console(file=io.StringIO(), width=80, height=24, force_terminal=terminal)


def drawn(view: LiveView) -> str:
    """What stands below the lines."""
    console = console_of(terminal=False)
    console.print(view.draw())
    return text_of(console)


def test_the_view_is_chosen_by_format_and_terminal() -> None:
    """A terminal is drawn over only where nobody asked for JSON or quiet."""
    assert isinstance(view_of(console_of(terminal=True), "text", is_quiet=False), LiveView)
    assert type(view_of(console_of(terminal=True), "text", is_quiet=True)) is LineView
    assert type(view_of(console_of(terminal=False), "text", is_quiet=False)) is LineView
    assert isinstance(view_of(console_of(terminal=True), "json", is_quiet=False), JsonView)


def test_a_log_says_which_modules_are_built() -> None:
    """Off a terminal each step of the builder is a line with rank, count and module."""
    console = console_of(terminal=False)
    LineView(console).on_event({"event": "progress", "at": 12.0, "rank": 1, "text": "1 of 3 modules: gemm built"})
    assert text_of(console) == "   12.00 s  rank 1 compiles: 1 of 3 modules: gemm built\n"


def test_a_log_gets_no_status_and_few_tasks() -> None:
    """One progress line in five seconds; what is for a screen is not printed."""
    console = console_of(terminal=False)
    view = LineView(console)
    view.on_event(TUNING)
    for number in range(10):
        view.on_event({"event": "task", "at": 20.0 + number, "rank": 0, "task": "t", "method": "Tune", "seconds": 1.0})
        view.on_event({"event": "status", "at": 20.0 + number, "status": asdict(STATUS)})
    assert text_of(console).splitlines() == [
        "   20.00 s  TUNING: 10 tasks",
        "   20.00 s  Tune 1/10 (rank 0: t)",
        "   25.00 s  Tune 6/10 (rank 0: t)",
    ]


def test_json_is_every_event_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """For a program: complete, without the statuses, which are many and large."""
    view = JsonView(console_of(terminal=True))
    view.on_event(TUNING)
    view.on_event({"event": "status", "at": 21.0, "status": asdict(STATUS)})
    view.on_event({"event": "warning", "at": 22.0, "text": "slow\nin two lines -> look"})
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["phase", "warning"]
    assert json.loads(lines[1])["text"] == "slow\nin two lines -> look"


def test_a_terminal_shows_classes_and_ranks() -> None:
    """Counts and time left of the class, each rank's task; a task that ends counts before the next status."""
    view = LiveView(console_of(terminal=True))
    view.on_event(TUNING)
    assert "TUNING" in drawn(view)
    view.on_event({"event": "status", "at": 21.0, "status": asdict(STATUS)})
    view.on_event({"event": "task", "at": 22.0, "rank": 0, "task": TASK, "method": "Tune", "seconds": 1.0})
    text = drawn(view)
    assert "TUNING  10 s of 1800 s  5/10 tasks" in text
    assert "c0ffee012345  2      10     4      2        0     0        ~15 s" in text
    assert text.count("bf16_gemm k=8192,n=1280@2048") == 2
    assert "slow" not in text, "a warning is a line above"


def test_a_phase_without_tasks_has_no_count() -> None:
    """What was said of the phase before is not drawn under the new one's name."""
    view = LiveView(console_of(terminal=True))
    view.on_event({"event": "status", "at": 21.0, "status": asdict(STATUS)})
    view.on_event({"event": "phase", "phase": "LOADING", "at": 30.0})
    text = drawn(view)
    assert "LOADING" in text
    assert "tasks" not in text


def test_nothing_of_the_screen_stays() -> None:
    """After the run a terminal has the lines, and no rank's row."""
    console = console_of(terminal=True)
    with LiveView(console) as view:
        view.on_event(TUNING)
        view.on_event({"event": "status", "at": 21.0, "status": asdict(STATUS)})
    text = text_of(console)
    assert "20.00 s  TUNING: 10 tasks" in text
    assert text.rstrip().endswith(("\x1b[?25h", "\x1b[2K"))
