"""SGLang's real autotuning functions with tables of ours: equal on every rank also under expert parallelism.

Fetch the wheel first: `python -m tests.engines.fetch sglang==0.5.23`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from flashinfer.autotuner import AutoTuner

from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.device.autotuner_seams import look_up, metadata
from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.device.request_recorder import RequestRecorder
from ray_warmup.warmup.engines.identity.identity import Identity
from ray_warmup.warmup.engines.plugin.rank_start import RankStart
from ray_warmup.warmup.engines.sglang import hooks
from ray_warmup.warmup.engines.sglang.process import SglangProcess
from ray_warmup.warmup.engines.tuning.options import TuningOptions
from ray_warmup.warmup.engines.tuning.outcome import TunedRequests, joined_table, outcome_of
from ray_warmup.warmup.engines.tuning.session import TuningSession
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.workloads.cpu_gemm_op import OP, cpu_gemm
from ray_warmup.warmup.workloads.live_request import PROCESS
from tests.engines.fetched import source_of
from tests.engines.real_sglang import ModuleOfNames, Ranks, model_runner, taken
from tests.engines.test_vllm_autotune import artifact_of
from tests.engines.wheel_source import WheelSource

TOKENS = 8
SHARED, EXPERTS = (32, 24), ((16, 8), (16, 40))
"""A GEMM of every rank, and one for each expert shard."""


@pytest.fixture
def wheel() -> WheelSource:
    """The released SGLang."""
    return source_of("sglang==0.5.23")


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
    table = tuner.table(results, [tuner.guard(task, row).verdict for task, row in zip(tasks, results, strict=True)])
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


def recorded(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TunedRequests:
    """A start that is recorded: SGLang's own context around one forward, then our tuning."""
    told = tmp_path / "told"
    told.mkdir()
    monkeypatch.setenv("RAY_WARMUP_RECORD", str(told))
    with TuningSession(1, TuningOptions(), tmp_path / "root") as session:
        monkeypatch.setenv("RAY_WARMUP_TUNE", session.variables(told)["RAY_WARMUP_TUNE"])
        process = SglangProcess()
        process._start = RankStart(0, 1, Identity(()), {}, {}, tmp_path)
        monkeypatch.setattr(hooks, "_process", process)
        with module.flashinfer_autotune_context(model_runner(), run_lm_head=False):
            forward(0)
        process.tune_once()
        process.tune_once()
        assert session.error == ""
        session.conductor.tick(time.monotonic())
        return outcome_of(session.conductor)


@pytest.mark.parametrize("own", [False, True])
def test_what_sglang_asks_for_is_tuned_placed_and_hit(
    wheel: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    """Recorded keys are hits, and SGLang times nothing; a table that it has made for itself is left alone."""
    file = tmp_path / "home" / "rank_tp0_pp0_dp0.json"
    file.parent.mkdir()
    environ = SimpleNamespace(envs=SimpleNamespace(SGLANG_FLASHINFER_AUTOTUNE_CACHE=SimpleNamespace(get=lambda: True)))
    monkeypatch.setitem(sys.modules, "sglang.srt.environ", environ)
    ranks = Ranks([file])
    with taken(wheel, ranks, metadata()) as names:
        module = ModuleOfNames(names)
        hooks._wrap_autotune(module)  # type: ignore[arg-type]
        tuned = recorded(module, tmp_path, monkeypatch)
        file.unlink()
        PROCESS.clear()
        AutoTuner.get().clear_cache()
        if own:
            file.write_text(json.dumps({"_metadata": metadata()}))
        entries = prove_by(module, tuned, tmp_path, monkeypatch)
        process = hooks._process
        process.table.close()
        if not own:
            assert placed_again(module, tmp_path, monkeypatch) == entries

    if own:
        assert process._placed["autotune_configs"] == 0
        assert process.table.proof() is None
        return
    assert process._placed["autotune_configs"] == entries
    proof = process.table.proof()
    assert (proof.hits, proof.own_misses, proof.unasked) == (entries, (), ())
    assert proof.own_hits >= 2


def placed_again(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A further start in a home in which SGLang has written the file anew. Returns the entries that it has."""
    process = SglangProcess()
    process._store = NodeStore(tmp_path / "store")
    monkeypatch.setattr(hooks, "_process", process)
    with module.flashinfer_autotune_context(model_runner(), run_lm_head=False):
        forward(0)
    return process._placed["autotune_configs"]


def prove_by(module: Any, tuned: TunedRequests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A start in another process that must prove itself. Returns the entries of the table."""
    for name in ("RAY_WARMUP_RECORD", "RAY_WARMUP_TUNE"):
        monkeypatch.delenv(name)
    (tmp_path / "proof").mkdir()
    monkeypatch.setenv("RAY_WARMUP_PROOF", str(tmp_path / "proof"))
    store = NodeStore(tmp_path / "store")
    artifact = artifact_of(tuned)
    store.publish(artifact)
    process = SglangProcess()
    process._store = store
    monkeypatch.setattr(hooks, "_process", process)
    assert artifact.table is not None
    timed: list[object] = []
    measure = AutoTuner._profile_single_kernel

    def count(*args: Any, **named: Any) -> Any:
        timed.append(args)
        return measure(*args, **named)

    monkeypatch.setattr(AutoTuner, "_profile_single_kernel", count)
    with module.flashinfer_autotune_context(model_runner(), run_lm_head=False):
        forward(0)
    # Where SGLang has a table of its own, it tunes what that lacks, as without us.
    assert bool(timed) is (process._placed["autotune_configs"] == 0)
    process.follow_once()
    forward(0)
    return len(parse_table(bytes(artifact.table)).entries)
