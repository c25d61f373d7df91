"""vLLM's own autotuning functions, taken from its released wheel, on a machine without a GPU.

`kernel_warmup.py` imports half of vLLM, so its functions around `flashinfer_autotune` are taken one by one;
`flashinfer_autotune_cache.py` is taken whole. What they call of the rest (groups, settings, the model) is small and
stands here.
"""

from __future__ import annotations

import ast
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import flashinfer
import pytest
import torch
from flashinfer.fused_moe.utils import get_hybrid_num_tokens_buckets

from tests.engines.fetch import NEWEST
from tests.engines.wheel_source import WheelSource

KERNEL_WARMUP = "vllm/model_executor/warmup/kernel_warmup.py"
CACHE = "vllm/model_executor/warmup/flashinfer_autotune_cache.py"
TAKEN = (
    "_flashinfer_autotune_skip_ops",
    "_flashinfer_deferred_moe_token_counts",
    "_flashinfer_autotune_token_counts",
    "_run_flashinfer_autotune_dummy_runs",
    "_autotune_cache_fingerprint",
    "_all_ranks_have_matching_cache",
    "_load_shared_autotune_cache",
    "flashinfer_autotune",
)
"""Of the newest release; an older one has those of them that it needs."""
OLDER = ("_run_flashinfer_bf16_autotune_dummy_run",)


@dataclass
class Group:
    """A group of ranks; the others are files on this disk."""

    world_size: int
    rank_in_group: int = 0
    cpu_group: object = None
    barriers: int = 0
    other_files: list[Path] = field(default_factory=list)

    def barrier(self) -> None:
        """Counted."""
        self.barriers += 1

    def broadcast_object(self, value: object, src: int) -> object:
        """The first rank's, which is this one's."""
        assert src == self.rank_in_group
        return value


@dataclass
class VllmModule:
    """The module of vLLM's functions, and what they did besides the sweep."""

    module: ModuleType
    group: Group
    rest: list[str] = field(default_factory=list)


@contextlib.contextmanager
def installed(wheel: WheelSource, root: Path, group: Group) -> Iterator[VllmModule]:
    """vLLM's functions as `vllm.model_executor.warmup.kernel_warmup`, with caches below a directory."""
    with pytest.MonkeyPatch.context() as patch:
        made = VllmModule(ModuleType("vllm.model_executor.warmup.kernel_warmup"), group)
        for name, module in _surroundings(root, group).items():
            patch.setitem(sys.modules, name, module)
        cache = ModuleType("vllm.model_executor.warmup.flashinfer_autotune_cache")
        patch.setitem(sys.modules, cache.__name__, cache)
        exec(compile(wheel.text(CACHE), CACHE, "exec"), cache.__dict__)
        patch.setitem(sys.modules, made.module.__name__, made.module)
        patch.setattr(torch.distributed, "all_gather_object", lambda into, own, group: _gather(made, into, own))
        made.module.__dict__.update(_names(cache, made.rest))
        exec(compile(_taken(wheel), KERNEL_WARMUP, "exec"), made.module.__dict__)
        yield made


def _taken(wheel: WheelSource) -> ast.Module:
    tree = wheel.tree(KERNEL_WARMUP)
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in TAKEN + OLDER]
    is_whole = len(found) == len(TAKEN) or f"vllm=={wheel.version}" != NEWEST[0]
    assert is_whole, "vLLM has other functions"
    future = ast.parse("from __future__ import annotations").body
    return ast.Module([*future, *found], [])


def _names(cache: ModuleType, rest: list[str]) -> dict[str, Any]:
    """Module globals of the taken functions."""
    names = {name: getattr(cache, name) for name in dir(cache) if "flashinfer_autotune" in name}
    return names | {
        "json": json,
        "Path": Path,
        "torch": torch,
        "envs": sys.modules["vllm.envs"],
        "logger": sys.modules["vllm.logger"].init_logger("vllm"),
        "autotune_hisparse_flashinfer_attention": lambda runner: rest.append("hisparse"),
        "replayssm_autotune_warmup": lambda runner: rest.append("replayssm"),
        "_autotune_kimi_k3_kda_qkvg": lambda model: rest.append("kimi"),
    }


def _gather(made: VllmModule, into: list[Any], own: Any) -> None:
    """All ranks' answers: this one's, and what the others' files say."""
    others = made.group.other_files
    if isinstance(own, bool):
        into[:] = [own, *(file.exists() for file in others)]
    else:
        into[:] = [own, *(made.module._autotune_cache_fingerprint(file) for file in others)]


class Logger:
    """Says nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def _surroundings(root: Path, group: Group) -> dict[str, ModuleType]:
    contents: dict[str, dict[str, Any]] = {
        "vllm": {"__version__": "0.33.0"},
        "vllm.envs": {
            "VLLM_FLASHINFER_AUTOTUNE_CACHE_DIR": str(root),
            "VLLM_FLASHINFER_AUTOTUNE_SKIP_OPS": None,
            "VLLM_CACHE_ROOT": str(root),
        },
        "vllm.config": {"CacheConfig": object, "VllmConfig": object, "replace": lambda config, **_: config},
        "vllm.compilation": {},
        "vllm.compilation.caching": {"aot_compile_hash_factors": lambda config: [config.compute_hash(False)]},
        "vllm.logger": {"init_logger": lambda name: Logger()},
        "vllm.distributed": {},
        "vllm.distributed.parallel_state": {
            "get_world_group": lambda: group,
            "get_tp_group": lambda: group,
            "get_pp_group": lambda: SimpleNamespace(world_size=1),
            "get_node_count": lambda: 1,
        },
        "vllm.utils": {},
        "vllm.utils.flashinfer": {
            "autotune": flashinfer.autotune,
            "flashinfer_get_hybrid_num_tokens_buckets": get_hybrid_num_tokens_buckets,
            "has_flashinfer_autotune_v2": lambda: True,
        },
        "vllm.model_executor": {},
        "vllm.model_executor.warmup": {},
        "vllm.model_executor.kernels": {},
        "vllm.model_executor.kernels.linear": {"FlashInferCuteDslNvFp4LinearKernel": int},
        "vllm.model_executor.layers": {},
        "vllm.model_executor.layers.fused_moe": {"MoERunner": int},
    }
    modules = {name: ModuleType(name) for name in contents}
    for name, module in modules.items():
        module.__dict__.update(contents[name])
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(modules[parent], last, module)
    return modules


class ModelRunner:
    """vLLM's model runner, as far as the sweep uses it."""

    def __init__(self, forward: Any, tokens: int = 64) -> None:
        self.sweeps: list[int] = []
        self._forward = forward
        self.scheduler_config = SimpleNamespace(max_num_batched_tokens=tokens)
        cache = SimpleNamespace(mamba_block_size=None, kv_cache_layout=None)
        parallel = SimpleNamespace(enable_elastic_ep=False, pipeline_parallel_size=1, data_parallel_rank=0)
        self.vllm_config = SimpleNamespace(
            cache_config=cache,
            parallel_config=parallel,
            attention_config=SimpleNamespace(hisparse_config=None),
            kernel_config=SimpleNamespace(linear_backend="auto"),
            compute_hash=lambda include_version: "0123456789",
        )

    def get_model(self) -> torch.nn.Module:
        """A model without layers of interest."""
        return torch.nn.Identity()

    def _dummy_run(self, num_tokens: int, **named: Any) -> None:
        self.sweeps.append(num_tokens)
        self._forward(num_tokens)
