"""vLLM's own planning of the KV cache, taken from its released wheel, on a machine without a GPU.

The modules that plan are taken whole. What they import of the rest (settings, logging, sizes of types) is small and
stands here, and of `kv_cache_utils.py`, which imports half of vLLM, the functions that count are taken one by one.
"""

from __future__ import annotations

import ast
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tests.engines.wheel_source import WheelSource

WHOLE = (
    "vllm.utils.math_utils",
    "vllm.v1.kv_cache_layout",
    "vllm.v1.kv_cache_spec_registry",
    "vllm.v1.kv_cache_interface",
    "vllm.v1.core.kv_cache_config_builder",
    "vllm.v1.core.kv_cache_planning",
)
"""Modules that are executed as they are, each after those that it imports."""
TAKEN = ("get_max_concurrency_for_kv_cache_config", "_kv_cache_device_name")
UTILS = "vllm/v1/core/kv_cache_utils.py"
TYPES = ("KVCacheConfig", "KVCacheGroupSpec", "KVCacheSpec", "VllmConfig")
GIB = 1 << 30


class Logger:
    """Says nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Settings(SimpleNamespace):
    """A section of vLLM's configuration. A setting that no test names is None."""

    def __getattr__(self, name: str) -> Any:
        return None


@dataclass(frozen=True)
class Planner:
    """vLLM's modules and one configuration."""

    interface: Any
    planning: Any
    vllm_config: Any

    def dense(self, first: int, last: int) -> dict[str, Any]:
        """Layers of full attention: 65,536 bytes a block of 16 tokens each."""
        made = {}
        for layer in range(first, last):
            made[f"layer_{layer}"] = self.interface.FullAttentionSpec(
                block_size=16, num_kv_heads=8, head_size=128, dtype=torch.bfloat16
            )
        return made

    def sliding(self, first: int, last: int) -> dict[str, Any]:
        """Layers that see 1,024 tokens."""
        made = {}
        for layer in range(first, last):
            made[f"layer_{layer}"] = self.interface.SlidingWindowSpec(
                block_size=16, num_kv_heads=8, head_size=128, dtype=torch.bfloat16, sliding_window=1024
            )
        return made

    def plan(self, specs: list[dict[str, Any]], memory: list[int]) -> list[Any]:
        """What the engine's core does after the profile."""
        groups = self.planning.get_global_kv_cache_groups(self.vllm_config, specs)
        planned: list[Any] = self.planning.get_kv_cache_configs(self.vllm_config, specs, memory, groups)
        return planned


@contextlib.contextmanager
def planner(wheel: WheelSource, **settings: Any) -> Iterator[Planner]:
    """vLLM's planning, with settings as `section.name` written `section__name`."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in _surroundings().items():
            patch.setitem(sys.modules, name, module)
        utils = ModuleType("vllm.v1.core.kv_cache_utils")
        patch.setitem(sys.modules, utils.__name__, utils)
        for name in WHOLE:
            module = ModuleType(name)
            patch.setitem(sys.modules, name, module)
            if name.endswith("kv_cache_planning"):
                _fill_utils(wheel, utils)
            path = f"{name.replace('.', '/')}.py"
            exec(compile(wheel.text(path), path, "exec"), module.__dict__)
        interface = sys.modules["vllm.v1.kv_cache_interface"]
        registry: Any = sys.modules["vllm.v1.kv_cache_spec_registry"]
        for spec in (interface.FullAttentionSpec, interface.SlidingWindowSpec):
            registry.KVCacheSpecRegistry.register(spec, object)
        layouts: Any = sys.modules["vllm.v1.kv_cache_layout"]
        config = _config(layouts.KVCacheLayout.LBHNC, settings)
        yield Planner(interface, sys.modules["vllm.v1.core.kv_cache_planning"], config)


def _fill_utils(wheel: WheelSource, utils: ModuleType) -> None:
    interface: Any = sys.modules["vllm.v1.kv_cache_interface"]
    utils.__dict__.update({name: getattr(interface, name, object) for name in TYPES})
    utils.__dict__["cdiv"] = sys.modules["vllm.utils.math_utils"].cdiv
    found = [node for node in wheel.tree(UTILS).body if isinstance(node, ast.FunctionDef) and node.name in TAKEN]
    assert len(found) == len(TAKEN), "vLLM has other functions"
    exec(compile(ast.Module([*found], []), UTILS, "exec"), utils.__dict__)


def _surroundings() -> dict[str, ModuleType]:
    def never(*_: Any) -> Any:
        raise AssertionError("HiSparse is not planned here")

    platform = SimpleNamespace(
        get_kv_cache_config_builder_cls=lambda config: "vllm.v1.core.kv_cache_planning.DefaultKVCacheConfigBuilder"
    )
    contents: dict[str, dict[str, Any]] = {
        "vllm": {},
        "vllm.config": {"SpeculativeConfig": object, "VllmConfig": object},
        "vllm.logger": {"init_logger": lambda name: Logger()},
        "vllm.platforms": {"current_platform": platform},
        "vllm.utils": {},
        "vllm.utils.mem_utils": {"format_gib": lambda size: f"{size / GIB:.2f}"},
        "vllm.utils.torch_utils": {"get_dtype_size": lambda dtype: torch.tensor([], dtype=dtype).element_size()},
        "vllm.utils.import_utils": {"resolve_obj_by_qualname": _resolved},
        "vllm.v1": {},
        "vllm.v1.core": {},
        "vllm.v1.attention": {},
        "vllm.v1.attention.backend": {"MultipleOf": type("MultipleOf", (), {})},
        "vllm.v1.attention.backends": {},
        "vllm.v1.attention.backends.registry": {"MambaAttentionBackendEnum": SimpleNamespace(MAMBA2=2)},
        "vllm.v1.hisparse": {},
        "vllm.v1.hisparse.layout": {
            "get_hisparse_kv_cache_groups": lambda config, specs: None,
            "get_hisparse_kv_cache_config": never,
            "get_hisparse_host_pool_bytes": never,
        },
    }
    modules = {}
    for name, names in contents.items():
        modules[name] = ModuleType(name)
        modules[name].__dict__.update(names)
    return modules


def _resolved(name: str) -> Any:
    module, _, member = name.rpartition(".")
    return getattr(sys.modules[module], member)


def _config(layout: Any, settings: dict[str, Any]) -> Any:
    sections = {
        "model_config": {"max_model_len": 4096, "original_max_model_len": 4096},
        "cache_config": {"get_resolved_kv_cache_layout": lambda: layout},
        "parallel_config": {
            "tensor_parallel_size": 1,
            "decode_context_parallel_size": 1,
            "prefill_context_parallel_size": 1,
        },
        "scheduler_config": {"max_num_seqs": 256, "max_num_batched_tokens": 8192},
        "attention_config": {},
        "kernel_config": {"enable_flashinfer_autotune": True},
        "device_config": {"device_type": "cuda"},
    }
    made = Settings(max_in_flight_tokens=8192, num_prefill_lookahead_tokens=0)
    for section, values in sections.items():
        setattr(made, section, Settings(**values))
    for name, value in settings.items():
        section, _, field = name.partition("__")
        setattr(getattr(made, section), field, value)
    return made
