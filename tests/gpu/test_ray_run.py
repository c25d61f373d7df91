"""Whole runs through Ray on one GPU that two ranks share: shards, a memory budget, a context that dies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.actors.connection.of_runs import connected
from ray_warmup.actors.driver.warmup_run import run_warmup
from ray_warmup.configs import WarmupConfig, parse_config
from ray_warmup.warmup.report import WarmupReport
from tests.bench.bench_gpu import MODEL, ROOT, task_seconds
from tests.gpu.stray_tuner import FLAG

BUCKETS = (1, 2, 4, 8)
SHAPES = 4
GIB = 1 << 30
BUDGET = int(4.1 * GIB)


def config_of(root: Path, **autotune: Any) -> WarmupConfig:
    """Two ranks on half a GPU each, with the four GEMM shapes of a 70B Llama's share."""
    chosen = {"families": ["gemm"], "skip_ops": [], "max_num_batched_tokens": 8192, "max_num_seqs": 1}
    return parse_config(
        {
            "cluster": {"ranks_per_node": 2, "gpus_per_rank": 0.5, "cpus_per_rank": 2, "backend": "cuda"},
            "model": {"name": str(ROOT / MODEL)},
            "autotune": {**chosen, "buckets": list(BUCKETS), "strategy": "sharded", **autotune},
            "guard": {"enabled": False},
            "engine": {"enabled": False},
            "cache": {"root": str(root)},
        }
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One local Ray for all runs of this module; the ranks find the tests' tuner, and share one workspace."""
    directory = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FLAG, str(directory / "strayed"))
        patch.setenv("PYTHONPATH", str(ROOT), prepend=":")
        patch.setenv("FLASHINFER_WORKSPACE_BASE", str(directory / "workspace"))
        with connected(config_of(directory)):
            yield directory


def run(config: WarmupConfig, **options: Any) -> WarmupReport:
    """A run that became ready, with one digest."""
    report = run_warmup(config, **options)
    assert report.ready, report.error
    (group,) = report.classes
    assert {(rank.digest, rank.misses) for rank in report.ranks} == {(group.digest, 0)}
    return report


def covered(report: WarmupReport) -> set[str]:
    """(op, shapes, extras) of every entry of the published table; the runner's class depends on who won."""
    path = next(file.path for file in report.files if file.path.endswith("autotune_configs.json"))
    entries = json.loads(Path(path).read_bytes())
    keys = [key for key in entries if key.startswith("('")]
    assert len(keys) == len(BUCKETS) * SHAPES + 1, sorted(entries)  # and the LM head at one token
    return {re.sub(r"^\('([^']+)', '[^']+'", r"('\1'", key) for key in keys}


def test_shards_of_two_ranks_cover_what_one_leader_covers(base: Path) -> None:
    """Both ranks measure, no task twice; the merged table, and one by consensus, cover the keys of a leader's tune."""
    sharded = run(config_of(base / "sharded"))
    alone = run(config_of(base / "leader", strategy="leader"))
    agreed = run(config_of(base / "consensus", strategy="consensus", consensus_ranks=2))
    assert covered(sharded) == covered(alone) == covered(agreed)
    assert [report.classes[0].strategy for report in (sharded, alone, agreed)] == ["sharded", "leader", "consensus"]
    by_rank = [(task, rank) for task, rank, _ in task_seconds(base / "sharded")]
    assert len({task for task, _ in by_rank}) == len(by_rank) == sharded.classes[0].measured
    assert {rank for _, rank in by_rank} == {0, 1}
    assert {rank for _, rank, _ in task_seconds(base / "leader")} == {0}


def test_a_dead_context_costs_one_process_and_no_finished_task(base: Path) -> None:
    """A stray write kills one rank's context: the rank comes back, every task is measured once, the run is ready."""
    report = run(config_of(base / "stray"), tuner="tests.gpu.stray_tuner:StrayTuner")
    assert (base / "strayed").exists(), "nothing strayed"
    said = [warning for warning in report.warnings if "DeadContextError" in warning]
    assert said, report.warnings
    assert "illegal memory access" in said[0]
    assert len(covered(report)) == report.classes[0].measured == len(BUCKETS) * SHAPES + 1


def test_a_budget_is_kept_by_leaving_out_the_largest_sizes(base: Path) -> None:
    """With 4.1 GiB the shapes that need more at 8192 tokens lose that size, with a warning; no rank takes more."""
    report = run(config_of(base / "budget", buckets=[1, 8192], max_memory_bytes=BUDGET))
    lost = [warning for warning in report.warnings if "the memory budget is 4.1 GiB" in warning]
    assert lost, report.warnings
    assert (report.classes[0].measured, report.classes[0].dropped) == (2 * SHAPES + 1 - len(lost), 0)
    assert all(0 < rank.peak_bytes <= BUDGET for rank in report.ranks)
    free = run(config_of(base / "free", buckets=[8192]))
    assert max(rank.peak_bytes for rank in free.ranks) > BUDGET, "the budget would not have been needed"
