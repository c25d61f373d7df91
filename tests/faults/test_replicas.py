"""Ranks of a recorded engine that are slow, killed, hang or differ while they are tuned: nobody waits for ever.

Real AutoTuner, real processes, a barrier between ranks per layer; half a minute each (-m long).
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.errors import EngineError
from tests.engines.replica import live, options

pytestmark = pytest.mark.long


@pytest.mark.parametrize("fault", ["slow:1", "killed:1"])
def test_a_slow_or_killed_rank_stops_nobody(tmp_path: Path, fault: str) -> None:
    """No forward waits for it; a kill from outside costs a start, no finished task, and no tactic its name."""
    life = live(tmp_path / "replica", tmp_path / "root", 2, fault)

    assert life.starts == (2 if fault == "killed:1" else 1)
    assert life.quarantine == set()
    assert [told["looked_up"] for told in life.told] == [[True, True, True]] * 2
    assert set(life.measured.values()) == {9}, "each task once over both starts"


def test_a_rank_with_another_op_list_is_a_class_of_its_own(tmp_path: Path) -> None:
    """Two classes, each tuned by its own ranks; one table for the replica, so that engines see equal ones."""
    life = live(tmp_path / "replica", tmp_path / "root", 3, "differs:1")

    assert [ranks for _, ranks in life.outcome.classes] == [(0, 2), (1,)]
    assert sorted(life.measured.values()) == [9, 12]
    tables = [content for content in life.outcome.contents if content.kind == "autotune_configs"]
    assert len(tables) == 1
    assert len(parse_table(bytes(tables[0].data)).entries) == 15
    assert len([content for content in life.outcome.contents if content.kind == "recorded_requests"]) == 2


@pytest.mark.parametrize("fault", ["fatal:0", "hangs:0"])
def test_a_tactic_that_kills_or_hangs_is_named_and_never_served(tmp_path: Path, fault: str) -> None:
    """Its rank is ended, the replica starts anew without the tactic, and a later attempt knows of it, too."""
    asked = options("leader", task=20, silence=15)
    life = live(tmp_path / "replica", tmp_path / "root", 2, fault, asked)

    assert life.starts == 2
    assert [(tactic.op, tactic.tactic) for tactic in life.quarantine] == [("planted", "1")]
    (blamed,) = (text for text in life.outcome.warnings if text.startswith("quarantined "))
    assert re.match(r"quarantined PlantedRunner tactic 1 of planted: it .* task planted:.*@[124] on", blamed)
    again = live(tmp_path / "again", tmp_path / "root", 2, fault, asked)
    assert again.starts == 1
    assert again.quarantine == life.quarantine


def test_a_rank_that_never_comes_is_named(tmp_path: Path) -> None:
    """The others do not wait for ever, and nothing is published."""
    with pytest.raises(EngineError, match=r"ranks \[1\] did not join the tuning within 20 s"):
        live(tmp_path / "replica", tmp_path / "root", 2, "absent:1", options(probing=20, silence=15))
