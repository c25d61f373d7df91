"""The GEMMs of a running model are those that are tuned: every key that a forward looks up is a task's, and all tasks'
keys are looked up. On the CPU through FlashInfer's own ops, whose compiled part is replaced by torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flashinfer.autotuner import AutoTuner

from ray_warmup.configs import parse_config
from ray_warmup.configs.model import load_model, presets
from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.engines.builtin.runner.scheduler import ServedRequest
from ray_warmup.warmup.engines.builtin.warmups.engine_outline import outline_of
from ray_warmup.warmup.rank.rank_workloads import rank_workloads
from ray_warmup.warmup.tasks import tasks_of
from ray_warmup.warmup.workloads import fused_moe
from tests.lookups import lookups, tuned_keys
from tests.stubbed_ops import stubbed_experts, stubbed_gemms
from tests.unit.warmup.conftest import ARCHITECTURES, DENSE, MLA, MOE

FAMILIES = {
    "dense": DENSE,
    "mla": MLA | {"q_lora_rank": 16, "kv_lora_rank": 24, "qk_rope_head_dim": 8, "v_head_dim": 8},
    "mla without a low-rank query": MLA | {"q_lora_rank": 0, "qk_rope_head_dim": 8, "v_head_dim": 8},
    "moe": MOE | {"num_experts": 8},
}


@pytest.fixture(autouse=True)
def _empty_autotuner() -> Iterator[None]:
    """Nothing tuned is left for other tests."""
    yield
    AutoTuner.get().clear_cache()


@pytest.fixture
def made(make_runner: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`made("moe", "fp8")`: a tiny runner on the CPU that makes the calls of a GPU; limits that are no buckets."""

    def make(family: str, quantization: str) -> Any:
        monkeypatch.setitem(ARCHITECTURES, "x", FAMILIES[family])
        calls = {"backend": "cuda", "quantization": quantization}
        return make_runner("x", dtype="bfloat16", calls=calls, max_num_batched_tokens=24, max_num_seqs=6)

    return make


def run_everything(runner: Any, serve: Any) -> None:
    """Every number of tokens that a step may have, and requests of many lengths in chunks."""
    for tokens in range(1, runner.limits.max_num_batched_tokens + 1):
        runner.dummy_run(tokens, force_attention=True)
    serve(runner, [ServedRequest(f"r{i}", tuple(range(1 + 3 * i)), 4) for i in range(11)], chunk=7)


@pytest.mark.parametrize("quantization", ["none", "fp8"])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_forward_looks_up_what_is_tuned(made: Any, serve: Any, family: str, quantization: str) -> None:
    """Of a bf16 and of an fp8 model, with latent attention, with experts: the same keys but for the absorbed GEMM."""
    with stubbed_gemms():
        runner = made(family, quantization)
        assert set(runner.projections.fallbacks) <= {"experts"}
        with lookups() as seen:
            run_everything(runner, serve)
        gemms = [call for call in runner.config.calls if call.family == "gemm"]
        tuned = tuned_keys(gemms, "cpu")

    ops = {"none": {"bf16_gemm"}, "fp8": {"bf16_gemm", "fp8_gemm"}}[quantization]
    assert {op for op, _, _ in seen.shapes} == ops
    assert seen.keys <= tuned.keys()
    assert {tuned[key] for key in tuned.keys() - seen.keys} == ({"kv_b_proj"} if "mla" in family else set())


def test_rows_that_are_not_padded_are_noticed(made: Any, serve: Any) -> None:
    """Without padding to tuned sizes a bf16 forward looks up keys that no task has: the check above can fail."""
    with stubbed_gemms():
        runner = made("dense", "none")
        runner.token_sizes = tuple(range(1, 33))
        with lookups() as seen:
            run_everything(runner, serve)
        tuned = tuned_keys(runner.config.calls[:5], "cpu")

    assert len(seen.keys - tuned.keys()) >= 8


def test_experts_look_up_what_is_tuned(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the fused module is there, both GEMMs inside it are asked for at their buckets, past the last one too."""
    monkeypatch.setattr(fused_moe, "unsupported_here", lambda *_: None)
    with stubbed_gemms(), stubbed_experts():
        runner = made("moe", "none")
        assert runner.projections.fallbacks == {}
        with lookups() as seen:
            for tokens in range(1, 25):
                runner.dummy_run(tokens, is_profile=True)
        tuned = tuned_keys(runner.config.calls, "cpu")

    assert {name for key, name in tuned.items() if key in seen.keys} >= {"moe_gemm1", "moe_gemm2", "router"}
    assert seen.keys <= tuned.keys()
    assert {name for key, name in tuned.items() if key not in seen.keys} <= {"lm_head"}


def test_after_tuning_every_lookup_of_a_forward_is_a_hit(make_runner: Any, serve: Any, tmp_path: Path) -> None:
    """On the CPU, whose ops are tuned for real: a forward misses without the table and never with it."""
    runner = make_runner(max_num_batched_tokens=8, max_num_seqs=2)
    tuner, path = FlashInferTuner("cpu"), tmp_path / "autotune_configs.json"
    tasks = tasks_of(tuple(call for call in runner.config.calls if call.family == "cpu_gemm"))
    with lookups() as untuned:
        runner.dummy_run(8)
    data = tuner.table([tuner.tune(task) for task in tasks], [])
    assert data is not None
    path.write_bytes(data)
    tuner.load(path, tasks)
    with lookups() as tuned:
        serve(runner, [ServedRequest(f"r{i}", tuple(range(1 + 3 * i)), 3) for i in range(5)], chunk=5)

    assert (untuned.hits, tuned.misses) == (0, 0)
    assert untuned.misses > 0
    assert tuned.hits > 20


@pytest.mark.parametrize("preset", presets())
@pytest.mark.parametrize("backend", ["cuda", "cpu"])
@pytest.mark.parametrize(
    "sizes", [{}, {"tensor_parallel_size": 4}, {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}]
)
def test_an_engine_is_made_of_the_calls_that_its_rank_tunes(preset: str, backend: str, sizes: dict[str, int]) -> None:
    """Whatever the share of the model, with and without expert parallelism, an outline's calls are the rank's."""
    dims = load_model(preset)
    for quantization in ("none", "fp8"):
        for ep in ({1, sizes.get("tensor_parallel_size", 1)}) if dims.is_moe else {1}:
            model = {"name": preset, "quantization": quantization, "expert_parallel_size": ep, **sizes}
            config = parse_config({"cluster": {"world_size": 8}, "model": model})
            for rank in (0, 7):
                tuned = {task.task_id for task in tasks_of(rank_workloads(config, dims, rank, backend))}
                calls = outline_of(config, dims, rank, backend).calls
                made = [call for call in calls if backend == "cuda" or call.family == "cpu_gemm"]
                assert {task.task_id for task in tasks_of(tuple(made))} == tuned
