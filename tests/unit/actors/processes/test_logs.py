"""A process' log is found by the line that it begins with, whatever Ray called the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_warmup.actors.processes.logs import COORDINATOR, mark, read_logs
from ray_warmup.scripts.commands.runs import as_seen

NODE = "ab" * 28


def write_log(directory: Path, name: str, capsys: pytest.CaptureFixture[str], *given: object, text: str = "") -> None:
    """A file as a process of a run writes it."""
    mark(*given)  # type: ignore[arg-type]
    (directory / f"worker-{name}-01000000-1.err").write_text("imported\n" + capsys.readouterr().err + text)


def test_a_run_and_a_rank_select_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the beginning of the run's id; other workers' files are none of them."""
    write_log(tmp_path, "a", capsys, "r1-abc", 0, NODE, text="tuned\n")
    write_log(tmp_path, "b", capsys, "r1-abc", COORDINATOR, NODE)
    write_log(tmp_path, "c", capsys, "r2-abc", 0, NODE)
    (tmp_path / "worker-d-01000000-1.err").write_text("another application\n")
    (tmp_path / "raylet.err").write_text("")

    everyone = list(read_logs(tmp_path, "r1", None, 10_000))
    (first,) = read_logs(tmp_path, "r1-abc", 0, 10_000)

    assert sorted(log.rank for log in everyone) == [COORDINATOR, 0]
    assert (first.run_id, first.node_id, first.text.splitlines()[-1]) == ("r1-abc", NODE, "tuned")
    assert first.title == f"rank 0 of run r1-abc, node {NODE[:8]}: {first.path}"


def test_the_end_of_a_long_log_begins_with_a_whole_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So many bytes at most, without half a line."""
    lines = "".join(f"line {number}\n" for number in range(1000))
    write_log(tmp_path, "a", capsys, "r1", 3, NODE, text=lines)
    (log,) = read_logs(tmp_path, "r1", 3, 100)
    assert len(log.text) <= 100
    assert log.text.splitlines()[0].startswith("line 9")
    assert log.text.endswith("line 999\n")


def test_a_progress_bar_is_shown_once() -> None:
    """A library that overwrites its line leaves the last state of it; other lines are as they were."""
    assert as_seen("one\n\r  0%|  |\r 50%|# |\r100%|##|\r\ntwo\r\n") == "one\n100%|##|\ntwo\n"
