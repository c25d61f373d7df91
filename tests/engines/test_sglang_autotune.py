"""SGLang's real autotuning functions with tables of ours: equal on every rank also under expert parallelism.

Fetch the wheel first: `python -m tests.engines.fetch sglang==0.5.23`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flashinfer.autotuner import AutoTuner

from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.device.autotuner_seams import look_up, metadata
from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.device.request_recorder import RequestRecorder
from ray_warmup.warmup.engines.tuning.outcome import joined_table
from ray_warmup.warmup.workloads.cpu_gemm_op import OP, cpu_gemm
from ray_warmup.warmup.workloads.live_request import PROCESS
from tests.engines.fetch import wheel_of
from tests.engines.real_sglang import Ranks, model_runner, taken
from tests.engines.wheel_source import WheelSource

TOKENS = 8
SHARED, EXPERTS = (32, 24), ((16, 8), (16, 40))
"""A GEMM of every rank, and one for each expert shard."""


@pytest.fixture
def wheel() -> WheelSource:
    """The released SGLang."""
    found = wheel_of("sglang==0.5.23")
    if found is None:
        pytest.skip("the wheel is not here: python -m tests.engines.fetch sglang==0.5.23")
    return WheelSource(found)


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No request and no table before and after; FlashInfer may ask whether a graph is captured."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    torch.set_num_threads(1)
    PROCESS.clear()
    AutoTuner.get().clear_cache()
    yield
    PROCESS.clear()
    AutoTuner.get().clear_cache()


def forward(rank: int, tokens: int = TOKENS) -> None:
    """What one rank of an expert-parallel group asks for."""
    for k, n in (SHARED, EXPERTS[rank]):
        cpu_gemm(torch.randn(tokens, k), torch.randn(n, k))


def table_of(rank: int) -> str:
    """The guarded table of one rank's class."""
    PROCESS.clear()
    with RequestRecorder(PROCESS).recording():
        forward(rank)
    tuner = FlashInferTuner("cpu")
    tasks = PROCESS.recording().tasks
    results = [tuner.tune(task) for task in tasks]
    table = tuner.table(results, [tuner.guard(task, row) for task, row in zip(tasks, results, strict=True)])
    assert table is not None
    return table.decode()


def boot(names: dict[str, Any], ranks: Ranks, rank: int) -> None:
    """One rank's start as SGLang runs it: its file is loaded, its forward tuned, its file written."""
    ranks.rank = rank
    AutoTuner.get().clear_cache()
    with names["flashinfer_autotune_context"](model_runner(), run_lm_head=False):
        forward(rank)


@pytest.fixture
def tables() -> tuple[str, str]:
    """Both ranks' tables."""
    return table_of(0), table_of(1)


def test_files_of_each_ranks_own_are_dropped_at_every_boot(
    wheel: WheelSource, tmp_path: Path, tables: tuple[str, str]
) -> None:
    """What happens today: shapes differ by design under expert parallelism, and SGLang deletes both files."""
    files = [tmp_path / f"rank_tp{rank}_pp0_dp0.json" for rank in (0, 1)]
    for file, table in zip(files, tables, strict=True):
        file.write_text(table)
    ranks = Ranks(files)
    with taken(wheel, ranks, metadata()) as names:
        names["_drop_diverged_autotune_cache"](files[0], None, metadata())
    assert not files[0].exists()


def test_one_table_for_all_ranks_is_kept_and_nothing_is_timed(
    wheel: WheelSource, tmp_path: Path, tables: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The joined table has equal digests on both ranks, in the first boot and in the next one; every call hits."""
    joined = joined_table(tables)
    assert joined is not None
    files = [tmp_path / f"rank_tp{rank}_pp0_dp0.json" for rank in (0, 1)]
    for file in files:
        file.write_bytes(joined.to_bytes())
    monkeypatch.setattr(AutoTuner, "_profile_single_kernel", lambda *_, **__: pytest.fail("a tactic was timed"))
    ranks = Ranks(files)
    with taken(wheel, ranks, metadata()) as names:
        for _ in range(2):
            for rank in (0, 1):
                boot(names, ranks, rank)
                assert files[rank].exists()
                k, n = EXPERTS[rank]
                assert look_up(lambda k=k, n=n: cpu_gemm(torch.randn(5, k), torch.randn(n, k)), OP).hit  # type: ignore[misc]
            digests = {names["_autotune_cache_digest"](file, metadata()) for file in files}
            assert len(digests) == 1
    assert set(parse_table(files[0].read_bytes()).entries) == set(joined.entries)
