"""When SGLang's real code calls the plugin, and what it has imported by then: `python -m tests.engines.fetch sglang`.

`sglang.srt.plugins` and `sglang.srt.environ` run here as they are in the wheel. The processes that call them need a GPU
or half of SGLang's requirements, so their order is read in their source.
"""

from __future__ import annotations

import ast
import importlib
import logging
import os
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ray_warmup.warmup.engines.sglang import hooks
from ray_warmup.warmup.engines.sglang.adapter import SGLANG_ADAPTER
from tests.engines.fetch import requirements
from tests.engines.fetched import source_of
from tests.engines.wheel_source import WheelSource

AUTOTUNE = "sglang/srt/model_executor/runner/flashinfer_autotune.py"
RUN = ("sglang/srt/__init__.py", "sglang/srt/environ.py", "sglang/srt/plugins/")


@pytest.fixture(params=requirements("sglang"))
def wheel(request: pytest.FixtureRequest) -> WheelSource:
    """One released SGLang."""
    return source_of(request.param)


@pytest.fixture
def plugins(wheel: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The real `sglang.srt.plugins`, below a package whose own imports are left out."""
    with zipfile.ZipFile(wheel.path) as archive:
        for name in archive.namelist():
            if name.startswith(RUN) and name.endswith(".py"):
                archive.extract(name, tmp_path)
    package = ModuleType("sglang")
    package.__path__ = [str(tmp_path / "sglang")]
    package.__version__ = wheel.version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sglang", package)
    before = set(sys.modules)
    variables = dict(os.environ)
    yield importlib.import_module("sglang.srt.plugins")
    for name in set(sys.modules) - before:
        if name.startswith("sglang."):
            del sys.modules[name]
    os.environ.clear()
    os.environ.update(variables)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, plugins: ModuleType) -> list[str]:
    """This project's entry point as the only one of the group; returns the names that were hooked."""
    entry = metadata.EntryPoint("ray_warmup", "ray_warmup.warmup.engines.sglang.plugin:register", "sglang.srt.plugins")
    object.__setattr__(entry, "dist", None)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry] if group == SGLANG_ADAPTER.plugin_group else [])
    hooked: list[str] = []
    monkeypatch.setattr(hooks, "when_imported", lambda name, callback: hooked.append(name))
    return hooked


def test_the_real_loader_runs_the_plugin_once(plugins: ModuleType, installed: list[str]) -> None:
    """SGLang calls its loader in several places of a process: the plugin is executed in the first."""
    plugins.load_plugins()
    plugins.load_plugins()

    assert installed == [
        "sglang.srt.model_executor.model_runner",
        "sglang.srt.model_executor.runner.base_runner",
        "sglang.srt.model_executor.runner.flashinfer_autotune",
    ]


@pytest.mark.parametrize(("listed", "loads"), [("other", False), ("other, ray_warmup", True), ("", True)])
def test_the_real_filter_is_the_one_that_is_told(
    plugins: ModuleType, installed: list[str], monkeypatch: pytest.MonkeyPatch, listed: str, loads: bool
) -> None:
    """What hides the plugin from SGLang is what `hidden_plugin` says, and nothing else."""
    from ray_warmup.warmup.engines.node import installed as environment

    monkeypatch.setattr(environment, "is_plugin_registered", lambda adapter: True)
    monkeypatch.setenv("SGLANG_PLUGINS", listed)
    plugins.load_plugins()

    assert bool(installed) is loads
    assert (environment.hidden_plugin(SGLANG_ADAPTER, {"SGLANG_PLUGINS": listed}) is None) is loads


def test_a_plugin_that_raises_does_not_end_the_engine(
    plugins: ModuleType, installed: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The real loader logs it and goes on."""

    def broken() -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(hooks, "install", broken)
    with caplog.at_level(logging.ERROR):
        plugins.load_plugins()
    assert "Failed to execute general plugin: ray_warmup" in caplog.text


def test_the_real_redirect_points_where_places_look(
    plugins: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`import sglang` sets these variables before any plugin: `places.py` finds the same directories."""
    from ray_warmup.warmup.engines.sglang.places import places

    environ = importlib.import_module("sglang.srt.environ")
    for name in environ.third_party_cache_defaults():
        monkeypatch.delenv(name, raising=False)
    for name in ("SGLANG_CACHE_DIR", "SGLANG_JIT_CACHE_DIR", "SGLANG_DG_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SGLANG_CACHE_DIR", str(tmp_path / "cache"))
    before = places()
    environ.redirect_third_party_caches()
    after = places()

    assert after == before
    assert after.triton_cache == tmp_path / "cache" / "triton"
    assert str(after.deep_gemm.parent) == environ.envs.SGLANG_DG_CACHE_DIR.get()


def calls_in(function: ast.stmt | None) -> list[str]:
    """Names that a function calls, in the order of its text."""
    assert function is not None
    found = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    found.sort(key=lambda node: (node.lineno, node.col_offset))
    return [node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "") for node in found]


def test_plugins_are_loaded_before_anything_of_the_engine(wheel: WheelSource) -> None:
    """In the front end before arguments are made, in a scheduler before its configuration is published."""
    front = calls_in(wheel.definition("sglang/srt/entrypoints/engine.py", "Engine.__init__"))
    assert front.index("load_plugins") < front.index("server_args_class")
    scheduler = calls_in(wheel.definition("sglang/srt/managers/scheduler.py", "run_scheduler_process"))
    assert scheduler[0] == "load_plugins"
    assert scheduler.index("load_plugins") < scheduler.index("Scheduler")


def test_caches_are_redirected_before_libraries_are_imported(wheel: WheelSource) -> None:
    """The first thing that `import sglang` does: a plugin comes later and finds the variables set."""
    names = calls_in(wheel.tree("sglang/__init__.py"))  # type: ignore[arg-type]
    assert names[0] == "_redirect_third_party_caches"


def test_the_context_is_looked_up_late(wheel: WheelSource) -> None:
    """Whoever imported the module's functions by name calls a wrapped context all the same: it is a global there."""
    context = [
        node
        for node in ast.walk(wheel.tree(AUTOTUNE))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "flashinfer_autotune_context"
    ]
    assert context
    for file in ("base_runner", "decode_cuda_graph_runner"):
        tree = wheel.tree(f"sglang/srt/model_executor/runner/{file}.py")
        imported = [name.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names]
        assert "flashinfer_autotune_context" not in imported
        assert "flashinfer_autotune_cache_path" not in imported


def test_the_wrapped_context_records_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours is entered before SGLang's own, whose errors are the caller's."""
    seen: list[str] = []

    import contextlib

    @contextlib.contextmanager
    def original(model_runner: Any, *, run_lm_head: bool) -> Iterator[None]:
        seen.append(f"enter {run_lm_head}")
        yield
        seen.append("leave")

    module = SimpleNamespace(flashinfer_autotune_context=original)
    process = SimpleNamespace(place_table=lambda *_: seen.append("place"), forward=contextlib.nullcontext)
    monkeypatch.setattr(hooks, "engine_process", lambda: process)
    hooks._wrap_autotune(module)  # type: ignore[arg-type]

    with module.flashinfer_autotune_context(None, run_lm_head=False):
        seen.append("forward")
    with pytest.raises(ValueError, match="of the forward"), module.flashinfer_autotune_context(None, run_lm_head=True):
        raise ValueError("of the forward")

    assert seen == ["place", "enter False", "forward", "leave", "place", "enter True"]
