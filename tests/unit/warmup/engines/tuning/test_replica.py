"""A replica's life while its requests are tuned: real AutoTuner, real processes, a barrier between ranks per layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.errors import EngineError
from ray_warmup.warmup.workloads.recorded_request import parse_recording
from tests.engines.replica import live, options


def test_two_ranks_share_the_tasks_and_serve_one_table(tmp_path: Path) -> None:
    """Recorded, split, guarded, merged, loaded by both, hit by the next forward."""
    life = live(tmp_path / "replica", tmp_path / "root", 2)

    assert life.starts == 1
    assert len({told["digest"] for told in life.told}) == 1
    assert [told["looked_up"] for told in life.told] == [[True, True]] * 2
    ((digest, ranks),) = life.outcome.classes
    assert ranks == (0, 1)
    assert life.ranks_of[digest] == {0, 1}, "both have measured"
    contents = {content.kind: content for content in life.outcome.contents}
    assert set(contents) == {"autotune_configs", "timings", "recorded_requests"}
    recording = parse_recording(contents["recorded_requests"].data)
    table = parse_table(bytes(contents["autotune_configs"].data))
    assert len(table.entries) == len(recording.tasks) == life.measured[digest] == 9
    assert life.outcome.guard.state == "guarded"
    assert sum(life.outcome.guard.counts.values()) == 9
    assert [key for key, entry in table.entries.items() if "planted" in key and entry.tactic in (2, 3, 4, 5, 6)] == []


@pytest.mark.parametrize("fault", ["slow:1", "killed:1"])
def test_a_slow_or_killed_rank_stops_nobody(tmp_path: Path, fault: str) -> None:
    """No forward waits for it; a kill from outside costs a start, no finished task, and no tactic its name."""
    life = live(tmp_path / "replica", tmp_path / "root", 2, fault)

    assert life.starts == (2 if fault == "killed:1" else 1)
    assert life.quarantine == set()
    assert [told["looked_up"] for told in life.told] == [[True, True]] * 2
    assert set(life.measured.values()) == {9}, "each task once over both starts"


def test_a_rank_with_another_op_list_is_a_class_of_its_own(tmp_path: Path) -> None:
    """Two classes, each tuned by its own ranks; one table for the replica, so that engines see equal ones."""
    life = live(tmp_path / "replica", tmp_path / "root", 3, "differs:1")

    assert [ranks for _, ranks in life.outcome.classes] == [(0, 2), (1,)]
    assert sorted(life.measured.values()) == [9, 12]
    tables = [content for content in life.outcome.contents if content.kind == "autotune_configs"]
    assert len(tables) == 1
    assert len(parse_table(bytes(tables[0].data)).entries) == 12
    assert len([content for content in life.outcome.contents if content.kind == "recorded_requests"]) == 2


@pytest.mark.parametrize("fault", ["fatal:0", "hangs:0"])
def test_a_tactic_that_kills_or_hangs_is_named_and_never_served(tmp_path: Path, fault: str) -> None:
    """Its rank is ended, the replica starts anew without the tactic, and a later attempt knows of it, too."""
    asked = options("leader", task=6, silence=5)
    life = live(tmp_path / "replica", tmp_path / "root", 2, fault, asked)

    assert life.starts == 2
    assert [(tactic.op, tactic.tactic) for tactic in life.quarantine] == [("planted", "1")]
    assert any("quarantined PlantedRunner tactic 1 of planted" in warning for warning in life.outcome.warnings)
    again = live(tmp_path / "again", tmp_path / "root", 2, fault, asked)
    assert again.starts == 1
    assert again.quarantine == life.quarantine


def test_a_rank_that_never_comes_is_named(tmp_path: Path) -> None:
    """The others do not wait for ever, and nothing is published."""
    with pytest.raises(EngineError, match=r"ranks \[1\] did not join the tuning within 6 s"):
        live(tmp_path / "replica", tmp_path / "root", 2, "absent:1", options(probing=6, silence=5))
