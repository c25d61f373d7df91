"""SGLang's own autotuning functions, taken from its released wheel, on a machine without a GPU.

`runner/flashinfer_autotune.py` imports half of SGLang, so its functions are taken one by one; settings, groups and
streams are small and stand here.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tests.engines.wheel_source import WheelSource

SOURCE = "sglang/srt/model_executor/runner/flashinfer_autotune.py"
TAKEN = (
    "get_flashinfer_autotune_skip_ops",
    "_autotune_tactic_sync_group",
    "_autotune_process_group",
    "_autotune_cache_digest",
    "_drop_diverged_autotune_cache",
    "flashinfer_autotune_context",
)


class Ranks:
    """A tensor-parallel group whose members are files on this disk."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.rank = 0
        self.names: dict[str, Any] = {}

    def gather(self, into: list[str], own: str, group: object) -> None:
        """Every rank's digest, by SGLang's own function."""
        digest = self.names["_autotune_cache_digest"]
        env = self.names["env"]
        into[:] = [own if rank == self.rank else digest(file, env) for rank, file in enumerate(self.files)]


class ModuleOfNames:
    """Names that were taken, as attributes of their module."""

    def __init__(self, names: dict[str, Any]) -> None:
        object.__setattr__(self, "_names", names)

    def __getattr__(self, name: str) -> Any:
        return self._names[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self._names[name] = value


class Stream:
    """Waits for nothing."""

    def wait_stream(self, other: object) -> None:
        """At once."""


@contextlib.contextmanager
def taken(wheel: WheelSource, ranks: Ranks, env: dict[str, str]) -> Iterator[dict[str, Any]]:
    """SGLang's functions by name; each rank's cache path is its file."""
    tree = wheel.tree(SOURCE)
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in TAKEN]
    assert sorted(node.name for node in found) == sorted(TAKEN), "SGLang has other functions"
    kernel = SimpleNamespace(flashinfer_autotune_skip_ops=None)
    setting = SimpleNamespace(get=lambda: True)
    group = SimpleNamespace(world_size=len(ranks.files), cpu_group=None)
    names: dict[str, Any] = {
        "torch": torch,
        "json": json,
        "hashlib": hashlib,
        "contextlib": contextlib,
        "Path": Path,
        "logger": logging.getLogger("sglang"),
        "log_info_on_rank0": lambda *_: None,
        "empty_context": contextlib.nullcontext,
        "envs": SimpleNamespace(SGLANG_FLASHINFER_AUTOTUNE_CACHE=setting),
        "get_exec": lambda: SimpleNamespace(kernel=kernel, moe=SimpleNamespace(moe_runner_backend="auto")),
        "get_parallel": lambda: SimpleNamespace(tp_group=group),
        "FLASHINFER_AUTOTUNE_WORKAROUND_SKIPS": frozenset(),
        "flashinfer_autotune_cache_path": lambda model_runner: ranks.files[ranks.rank],
        "env": env,
    }
    future = ast.parse("from __future__ import annotations").body
    exec(compile(ast.Module([*future, *found], []), SOURCE, "exec"), names)
    ranks.names = names
    with pytest.MonkeyPatch.context() as patch:
        for name, content in _modules().items():
            patch.setitem(sys.modules, name, content)
        patch.setattr(torch.distributed, "get_world_size", lambda group: len(ranks.files))
        patch.setattr(torch.distributed, "all_gather_object", ranks.gather)
        patch.setattr(torch.cuda, "current_stream", Stream)
        yield names


def _modules() -> dict[str, ModuleType]:
    """Modules that the context imports where it runs."""
    names = (
        "sglang",
        "sglang.srt",
        "sglang.srt.layers",
        "sglang.srt.layers.logits_processor",
        "sglang.srt.layers.moe",
        "sglang.srt.layers.moe.flashinfer_megamoe_autotune",
    )
    modules = {name: ModuleType(name) for name in names}
    dummy = lambda run_lm_head: contextlib.nullcontext()  # noqa: E731
    modules["sglang.srt.layers.logits_processor"].autotune_dummy_run_mode = dummy  # type: ignore[attr-defined]
    mega = lambda **_: contextlib.nullcontext()  # noqa: E731
    modules["sglang.srt.layers.moe.flashinfer_megamoe_autotune"].megamoe_autotune_context = mega  # type: ignore[attr-defined]
    return modules


def model_runner() -> SimpleNamespace:
    """SGLang's model runner, as far as the context uses it."""
    return SimpleNamespace(device="cpu", forward_stream=Stream(), is_draft_worker=False)
