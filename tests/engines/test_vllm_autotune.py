"""A planted tunable op through vLLM's real `flashinfer_autotune`: recorded, tuned, placed, hit, the sweep skipped.

Fetch the wheel first: `python -m tests.engines.fetch`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flashinfer.autotuner import AutoTuner

from ray_warmup.warmup.artifact.artifact import Artifact, pack
from ray_warmup.warmup.artifact.table import TunedTable, parse_table
from ray_warmup.warmup.device import managed_store
from ray_warmup.warmup.device.autotuner_seams import look_up
from ray_warmup.warmup.engines.identity.identity import Identity
from ray_warmup.warmup.engines.plugin.rank_start import RankStart
from ray_warmup.warmup.engines.tuning.options import TuningOptions
from ray_warmup.warmup.engines.tuning.outcome import TunedRequests, outcome_of
from ray_warmup.warmup.engines.tuning.session import TuningSession
from ray_warmup.warmup.engines.vllm import hooks
from ray_warmup.warmup.engines.vllm.process import VllmProcess
from ray_warmup.warmup.store.node_store import NodeStore
from tests import planted_tactics as planted
from tests.engines.fetch import NEWEST
from tests.engines.fetched import source_of
from tests.engines.real_vllm import Group, ModelRunner, VllmModule, installed
from tests.engines.wheel_source import WheelSource

TOKENS = 16


@pytest.fixture
def wheel() -> WheelSource:
    """The released vLLM."""
    return source_of(NEWEST[0])


@pytest.fixture(autouse=True)
def _own_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No process object and no table before and after."""
    monkeypatch.setattr(hooks, "_process", None)
    monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", str(tmp_path / "root"))
    torch.set_num_threads(1)
    planted.forget()
    _empty_tuner()
    yield
    if hooks._process is not None:
        hooks._process.table.close()
    _empty_tuner()


def _empty_tuner() -> None:
    tuner = AutoTuner.get()
    tuner.clear_cache()
    tuner._managed_cache = None
    for name in ("choose_one", "search_cache"):
        tuner.__dict__.pop(name, None)


def forward(tokens: int) -> Any:
    """The engine's model: one planted op."""
    return planted.PlantedCall((torch.randn(tokens, 64), torch.randn(64, 64))).run()


def record(vllm: VllmModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModelRunner, TunedRequests]:
    """A start that is recorded: vLLM's function runs, its forward is recorded, its requests are tuned."""
    hooks._wrap_autotune(vllm.module)
    runner = ModelRunner(forward, TOKENS)
    told = tmp_path / "told"
    told.mkdir()
    monkeypatch.setenv("RAY_WARMUP_RECORD", str(told))
    with TuningSession(1, TuningOptions(), tmp_path / "root") as session:
        monkeypatch.setenv("RAY_WARMUP_TUNE", session.variables(told)["RAY_WARMUP_TUNE"])
        hooks._process = VllmProcess()
        hooks._process._start = RankStart(0, 1, Identity(()), {}, {}, tmp_path)
        vllm.module.flashinfer_autotune(runner)
        assert session.error == ""
        deadline = time.monotonic() + 10
        while not session.conductor.is_over and time.monotonic() < deadline:
            time.sleep(0.01)
        return runner, outcome_of(session.conductor)


def artifact_of(tuned: TunedRequests) -> Artifact:
    """An artifact with nothing but the table."""
    return pack(
        tuned.contents,
        key={"engine": "vllm"},
        key_sha256="0" * 64,
        fingerprint={},
        created_at=1.0,
        strategy="recorded",
        guard=tuned.guard,
    )


def serve(vllm: VllmModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifact: Artifact) -> ModelRunner:
    """A start in another process that must prove itself."""
    monkeypatch.delenv("RAY_WARMUP_RECORD")
    monkeypatch.delenv("RAY_WARMUP_TUNE")
    proof = tmp_path / "proof"
    proof.mkdir()
    monkeypatch.setenv("RAY_WARMUP_PROOF", str(proof))
    NodeStore(tmp_path / "store").publish(artifact)
    return serve_again(vllm, tmp_path)


def serve_again(vllm: VllmModule, tmp_path: Path) -> ModelRunner:
    """Another start on the node that holds the artifact."""
    _empty_tuner()
    hooks._process = VllmProcess()
    hooks._process._store = NodeStore(tmp_path / "store")
    vllm.rest.clear()
    runner = ModelRunner(forward, TOKENS)
    vllm.module.flashinfer_autotune(runner)
    return runner


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_vllm_asks_for_is_tuned_carried_and_hit(
    wheel: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    """One rank: the managed store, the sweep skipped by us. Two ranks: a file per rank, the sweep skipped by vLLM."""
    with installed(wheel, tmp_path / "recorded", Group(1)) as vllm:
        runner, tuned = record(vllm, tmp_path, monkeypatch)
        assert runner.sweeps == [TOKENS]
        assert vllm.rest == ["replayssm", "kimi"]
        assert not list((tmp_path / "recorded").rglob("entries/*.json")), "nothing unguarded was published"
    assert tuned.guard.state == "guarded"

    group = Group(ranks)
    with installed(wheel, tmp_path / "served", group) as vllm:
        if ranks == 2:
            other = tmp_path / "served" / "other.json"
            table = next(content for content in tuned.contents if content.kind == "autotune_configs")
            other.parent.mkdir(exist_ok=True)
            other.write_bytes(bytes(table.data))
            group.other_files.append(other)
        hooks._wrap_autotune(vllm.module)
        served = serve(vllm, tmp_path, monkeypatch, artifact_of(tuned))

        assert served.sweeps == [], "the sweep alone is skipped"
        assert vllm.rest == ["replayssm", "kimi"]
        assert group.barriers == (1 if ranks == 2 else 0)
        for tokens in (TOKENS, 9, 1):
            forward(tokens)
        proof = hooks._process.table.proof()
        assert (proof.own_hits, proof.own_misses) == (3, ())
        assert proof.hits == proof.entries == 5
        assert (proof.misses, proof.unasked) == ((), ())
        assert look_up(lambda: forward(TOKENS), planted.OP).hit


@pytest.mark.parametrize(
    ("version", "file"),
    [
        ("0.29.0", "autotune_configs.json"),
        ("0.31.0", "autotune_configs.json"),
        ("0.32.0", "autotune_configs_dp0_rank0.json"),
    ],
)
def test_releases_without_a_place_per_rank_load_the_table_where_they_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, file: str
) -> None:
    """Their sweep runs on what they have loaded: nothing is tuned, and every lookup hits."""
    wheel = source_of(f"vllm=={version}")
    with installed(wheel, tmp_path / "recorded", Group(1)) as vllm:
        _, tuned = record(vllm, tmp_path, monkeypatch)
    with installed(wheel, tmp_path / "served", Group(1)) as vllm:
        hooks._wrap_autotune(vllm.module)
        serve(vllm, tmp_path, monkeypatch, artifact_of(tuned))
        (placed,) = (tmp_path / "served").rglob("autotune_configs*.json")
        assert placed.name == file
        for tokens in (TOKENS, 9, 1):
            forward(tokens)
        proof = hooks._process._autotune.table.proof()
        assert (proof.own_hits, proof.own_misses) == (3, ())
        assert proof.hits == proof.entries == 5
        assert proof.misses == ()


def test_entries_of_flashinfers_own_in_the_store_are_left_alone(
    wheel: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A home in which vLLM has tuned itself: the rest is placed, the sweep is vLLM's, and the log says what to do."""
    with installed(wheel, tmp_path / "recorded", Group(1)) as vllm:
        _, tuned = record(vllm, tmp_path, monkeypatch)
    with installed(wheel, tmp_path / "served", Group(1)) as vllm:
        hooks._wrap_autotune(vllm.module)
        artifact = artifact_of(tuned)
        assert artifact.table is not None
        entries = parse_table(bytes(artifact.table)).entries
        key = next(key for key in entries if f"(({TOKENS}, " in key)
        root = sys.modules["vllm.model_executor.warmup.flashinfer_autotune_cache"].resolve_flashinfer_autotune_v2_root()
        managed_store._store(root).publish(key, planted.RUNNER, planted.SAME, profiling_policy=entries[key].policy)
        served = serve(vllm, tmp_path, monkeypatch, artifact)
        assert hooks._process._placed["autotune_configs"] == len(entries) - 1
        assert served.sweeps == [TOKENS]
        assert look_up(lambda: forward(TOKENS), planted.OP).tactic == planted.SAME
        assert look_up(lambda: forward(1), planted.OP).hit
    assert "1 entries of its own that differ" in caplog.text


def test_a_table_that_vllm_has_written_again_with_its_own_entries_is_still_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM tunes a few ops besides its sweep and saves all into the same file: the next start in that home hits."""
    with installed(source_of("vllm==0.32.0"), tmp_path / "recorded", Group(1)) as vllm:
        _, tuned = record(vllm, tmp_path, monkeypatch)
    with installed(source_of("vllm==0.32.0"), tmp_path / "served", Group(1)) as vllm:
        hooks._wrap_autotune(vllm.module)
        serve(vllm, tmp_path, monkeypatch, artifact_of(tuned))
        (file,) = (tmp_path / "served").rglob("autotune_configs*.json")
        table = parse_table(file.read_bytes())
        key, entry = next(iter(table.entries.items()))
        own = {key.replace(planted.OP, "own"): entry}
        file.write_bytes(TunedTable(table.metadata, table.entries | own, {}).to_bytes())
        before = file.read_bytes()
        hooks._process.table.close()
        serve_again(vllm, tmp_path)
        assert hooks._process._placed["autotune_configs"] == 5
        assert file.read_bytes() == before


def test_a_rank_whose_neighbour_lacks_the_table_runs_the_sweep(
    wheel: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep holds collectives: one rank alone must not skip it, whatever it holds itself."""
    with installed(wheel, tmp_path / "recorded", Group(1)) as vllm:
        _, tuned = record(vllm, tmp_path, monkeypatch)
    with installed(wheel, tmp_path / "served", Group(2, other_files=[tmp_path / "absent.json"])) as vllm:
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)  # FlashInfer times nothing then
        hooks._wrap_autotune(vllm.module)
        with pytest.raises(RuntimeError, match="during an active outer CUDA Graph capture"):
            serve(vllm, tmp_path, monkeypatch, artifact_of(tuned))


def test_a_miss_names_the_key_and_the_nearest_one(
    wheel: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight that was not recorded: the proof says which key was missing, and what the table has beside it."""
    with installed(wheel, tmp_path / "recorded", Group(1)) as vllm:
        _, tuned = record(vllm, tmp_path, monkeypatch)
    with installed(wheel, tmp_path / "served", Group(1)) as vllm:
        hooks._wrap_autotune(vllm.module)
        serve(vllm, tmp_path, monkeypatch, artifact_of(tuned))
        forward(300)  # more tokens than vLLM's own sweep reaches
        planted.PlantedCall((torch.randn(4, 32), torch.randn(32, 64))).run()
        proof = hooks._process.table.proof()
        (miss,) = proof.own_misses
        assert proof.beyond == 1
        assert "no entry for ('planted', 'PlantedRunner', ((4, 32), (32, 64))" in miss
        assert "the nearest is ('planted', 'PlantedRunner', ((" in miss
