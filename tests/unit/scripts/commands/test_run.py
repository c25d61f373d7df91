"""What `run` prints at the end of a run, without Ray."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from ray_warmup.configs import load_config
from ray_warmup.scripts.commands.run import outcome_of
from ray_warmup.scripts.commands.run_ending import write_report
from ray_warmup.scripts.reports.report_file import ReportFile
from ray_warmup.scripts.views.report import brief, show_report, wrote_lines
from ray_warmup.warmup.report import FileReport, RankReport, WarmupReport


def shown(report: WarmupReport) -> str:
    """What a person reads."""
    console = Console(file=io.StringIO(), width=200)
    show_report(console, report, whole=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_run_without_ranks_shows_no_table() -> None:
    """A run that never placed a rank shows why and for how long, and no empty table."""
    text = shown(WarmupReport(run_id="r1", config={}, phases={"PLACING": 1.5}, error="PlacementError: too few GPUs"))
    assert "FAILED: PlacementError: too few GPUs" in text
    assert text.startswith("FAILED: PlacementError")
    assert "lost: 1.5 s" in text
    assert "digest" not in text


def test_ranks_are_shown_in_a_table() -> None:
    """One row per rank, with the seconds of the phases it worked in."""
    rank = RankReport(
        rank=0,
        local_rank=0,
        node_rank=0,
        node_id="ab12cd34ef",
        role="leader",
        state="ready",
        digest="d" * 64,
        entries=28,
        hits=56,
        phases={"LOADING": 0.25},
    )
    text = shown(WarmupReport(run_id="r1", config={}, ranks=(rank,), phases={"LOADING": 0.5}))
    row = next(line for line in text.splitlines() if "leader" in line)
    assert all(cell in row for cell in ("ab12cd34", "ready", "28", "56", "d" * 12, "0.25"))
    assert "READY in 0.50 s" in text


def test_a_report_that_fails_at_the_end_is_told(tmp_path: Path) -> None:
    """Trouble with the report is one line that names it and the reason, and advises nothing about caches."""
    console = Console(file=io.StringIO(), width=200)
    report = WarmupReport(run_id="r1", config={})
    with ReportFile(tmp_path / "report.json") as file:
        assert write_report(console, report.to_json().encode(), file)
    with ReportFile(Path("/dev/full")) as file:
        assert not write_report(console, report.to_json().encode(), file)
    assert isinstance(console.file, io.StringIO)
    (refused,) = console.file.getvalue().splitlines()
    assert refused == "--report: /dev/full could not be written: No space left on device"


def test_a_narrow_terminal_keeps_every_rank_readable() -> None:
    """On 80 columns the seconds of the phases leave the table for a line of their own; nothing is cut off."""
    phases = dict.fromkeys(("PROBING", "TUNING", "GUARDING", "LOADING", "REPLAYING"), 12.25)
    named = {"rank": 0, "local_rank": 0, "node_rank": 0, "node_id": "ab12cd34ef", "role": "follower", "state": "ready"}
    rank = RankReport(**named, digest="d" * 64, entries=2800, hits=2800, phases=phases)
    report = WarmupReport(run_id="r1", config={}, ranks=(rank,), phases=phases)
    console = Console(file=io.StringIO(), width=80)
    show_report(console, report, whole=True)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert all(cell in text for cell in ("ab12cd34", "follower", "ready", "2800", "d" * 12, "tuning 12.25"))
    assert "…" not in text
    assert "tuning s" in shown(report)


def test_files_are_one_line_for_each_node() -> None:
    """Hundreds of blobs do not push the verdict off the screen; each is told when it is asked for."""
    files = tuple(
        FileReport(node_id=f"{node}" * 16, path=f"/cache/{node}/blobs/{blob}", sha256="0" * 64, bytes=1024)
        for node in "ab"
        for blob in range(300)
    )
    report = WarmupReport(run_id="r1", config={}, files=(*files, files[0].model_copy(update={"node_id": "c" * 16})))
    lines = wrote_lines(report, each=False)
    assert lines[:2] == [
        "wrote 300 files, 300.0 KiB, on node aaaaaaaa: /cache/a/blobs",
        "wrote 300 files, 300.0 KiB, on node bbbbbbbb: /cache/b/blobs",
    ]
    assert lines[2:] == ["wrote 1 file, 1.0 KiB, on node cccccccc: /cache/a/blobs/0"]
    assert shown(report).count("wrote ") == 3
    assert len(wrote_lines(report, each=True)) == 601


def test_stacks_are_the_reports() -> None:
    """On the screen and in the last line stands the cause; how many ranks' stacks the report has is said."""
    stack = "\n".join(f'  File "x.py", line {number}' for number in range(50))
    error = f"PROBING: no answer\nfrom rank 1\nrank 1 (node ab) stands here:\n{stack}\nrank 2 stands here:\n{stack}"
    report = WarmupReport(run_id="r1", config={}, error=error)
    said = outcome_of(load_config("cpu_two_nodes"), report, 1).error or ""
    for text in (shown(report), said):
        assert "no answer" in text
        assert "from rank 1" in text
        assert "the stacks of 2 ranks are in the report" in text
        assert "x.py" not in text
    assert brief("plain\nerror") == "plain\nerror"
    assert brief(None) is None
    assert WarmupReport.from_json(report.to_json()).error == error
