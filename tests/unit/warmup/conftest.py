"""Ranks without Ray; tiny real runners for the tests of the runner and of the engine warmups (torch is imported when
one is made)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.configs.model import ModelDims
from ray_warmup.warmup.workloads.catalog import Split
from tests.lone_rank import Answer, LoneRank, RankMaker, lone_rank
from tests.recording_connector import RecordingConnector
from tests.troubled_disk import TroubledDisk

DENSE = {
    "name": "tiny",
    "architecture": "dense",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 101,
}
MLA = DENSE | {
    "architecture": "mla",
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
}
MOE = DENSE | {
    "architecture": "moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "num_shared_experts": 1,
    "first_dense_layers": 1,
}
ARCHITECTURES = {"dense": DENSE, "mla": MLA, "moe": MOE, "mla_moe": MLA | MOE | {"architecture": "mla_moe"}}

RunnerFactory = Callable[..., Any]


@pytest.fixture
def make_rank(tmp_path: Path) -> RankMaker:
    """`make_rank(rank, script, section={...})`: a probed rank; ranks 0 and 1 on node0, 2 and 3 on node1."""

    def make(rank: int = 0, script: Answer | None = None, *, root: Path | None = None, **sections: Answer) -> LoneRank:
        return lone_rank(rank, script or {}, root or tmp_path / f"node{rank // 2}", **sections)

    return make


@pytest.fixture
def troubled_disk(monkeypatch: pytest.MonkeyPatch) -> TroubledDisk:
    """A disk on which a test can make calls fail."""
    return TroubledDisk(monkeypatch)


@pytest.fixture
def make_runner() -> RunnerFactory:
    """`make_runner("dense", max_num_seqs=4, dtype="float64", ...)`: a built-in runner of three tiny layers.

    `calls` are arguments of `layer_calls`, for a share of a model or for the op calls of a GPU.
    """
    import torch

    from ray_warmup.warmup.engines.builtin.runner.builtin import BuiltinRunner
    from ray_warmup.warmup.engines.builtin.runner.kv_cache import KVCacheConfig, interleaved_groups
    from ray_warmup.warmup.engines.builtin.runner.protocol import SchedulerLimits
    from ray_warmup.warmup.engines.builtin.runner.runner_config import RunnerConfig, layer_calls, whole_model

    torch.set_num_threads(1)

    def make(
        architecture: str = "dense",
        *,
        max_num_batched_tokens: int = 64,
        max_num_seqs: int = 8,
        max_model_len: int = 128,
        num_blocks: int = 200,
        block_sizes: tuple[int, ...] = (4, 16),
        kv_connector: Any = None,
        calls: dict[str, Any] | None = None,
        **config: Any,
    ) -> Any:
        dims = ModelDims.model_validate(ARCHITECTURES[architecture])
        limits = SchedulerLimits(max_num_batched_tokens, max_num_seqs, max_model_len)
        if calls is not None:
            wanted = {"backend": "cpu", "dtype": config.get("dtype", "float32"), **calls}
            split = {field.name: wanted.pop(field.name) for field in fields(Split) if field.name in wanted}
            config["workloads"] = layer_calls(dims, replace(whole_model(limits), **split), **wanted)
        runner = BuiltinRunner(
            RunnerConfig(
                dims=dims,
                limits=limits,
                kv_cache=KVCacheConfig(num_blocks, interleaved_groups(3, block_sizes)),
                **config,
            ),
        )
        return (kv_connector or RecordingConnector()).connect(runner)

    return make


@pytest.fixture
def serve() -> Callable[..., dict[str, list[int]]]:
    """`serve(runner, requests, chunk=...)`: run requests to their end, return each one's tokens."""
    from ray_warmup.warmup.engines.builtin.runner.scheduler import Scheduler

    def run(runner: Any, requests: list[Any], chunk: int | None = None) -> dict[str, list[int]]:
        scheduler = Scheduler(runner.limits, runner.kv_cache_config, chunk)
        scheduler.add(requests)
        while (step := scheduler.schedule()) is not None:
            result = runner.execute_model(step)
            scheduler.update(step, runner.sample_tokens(None) or result)
        return {req_id: request.output for req_id, request in scheduler.done.items()}

    return run


@pytest.fixture
def compile_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`compile_kernel(torch.float32)`: compile a kernel of ours for SM90, with an empty Triton cache."""
    import torch
    import triton
    from triton.runtime import driver

    from ray_warmup.warmup.engines.builtin.kernels.launch import kernel
    from ray_warmup.warmup.engines.builtin.kernels.scatter_rows import scatter_rows_kernel
    from tests.fakes import StubTritonDriver

    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path)
        monkeypatch.setattr(driver, "_active", StubTritonDriver())
        kernel.cache_clear()

        def run(dtype: Any) -> None:
            rows, slots = torch.zeros(4, 64, dtype=dtype), torch.zeros(4, dtype=torch.int64)
            kernel(scatter_rows_kernel, "compiled", ("width",)).warmup(rows, rows, slots, 64, 64, BLOCK=64, grid=(4,))

        yield run
        kernel.cache_clear()
