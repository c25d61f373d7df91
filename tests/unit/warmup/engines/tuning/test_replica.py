"""A replica's life while its requests are tuned: real AutoTuner, real processes, a barrier between ranks per layer."""

from __future__ import annotations

from pathlib import Path

from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.workloads.recorded_request import parse_recording
from tests.engines.replica import live


def test_two_ranks_share_the_tasks_and_serve_one_table(tmp_path: Path) -> None:
    """Recorded, split, guarded, merged, loaded by both, hit by the next forward; a collective keeps its default.

    So does what is fast on one of the two alone, whichever of them judged first.
    """
    life = live(tmp_path / "replica", tmp_path / "root", 2, "unlike:1")

    assert life.starts == 1
    assert len({told["digest"] for told in life.told}) == 1
    assert [told["looked_up"] for told in life.told] == [[True, True, True]] * 2
    ((digest, ranks),) = life.outcome.classes
    assert ranks == (0, 1)
    assert life.ranks_of[digest] == {0, 1}, "both have measured"
    contents = {content.kind: content for content in life.outcome.contents}
    assert set(contents) == {"autotune_configs", "timings", "recorded_requests"}
    recording = parse_recording(contents["recorded_requests"].data)
    table = parse_table(bytes(contents["autotune_configs"].data))
    assert len(recording.tasks) == life.measured[digest] == 9
    assert len(table.entries) == len(recording.every_task) == 12
    assert [entry.tactic for key, entry in table.entries.items() if "talking" in key] == [-1] * 3
    served = {key: entry.tactic for key, entry in table.entries.items() if "'planted'" in key}
    winners = [
        [tokens, served[f"('planted', 'PlantedRunner', (({tokens}, 32), (32, 32)), ())"]] for tokens in (1, 2, 4)
    ]
    assert winners[2] == [4, -1], "rank 1 is against it"
    assert [told["replayed"] for told in life.told] == [winners] * 2, "each rank ran each winner once"
    (warning,) = [warning for warning in life.outcome.warnings if "talking" in warning]
    assert warning.startswith("talking *x24 24x24 keeps its default: TalkingRunner communicates with other ranks")
    assert life.outcome.guard.state == "guarded"
    assert sum(life.outcome.guard.counts.values()) == 9
    assert [key for key, entry in table.entries.items() if "planted" in key and entry.tactic in (2, 3, 4, 5, 6)] == []
