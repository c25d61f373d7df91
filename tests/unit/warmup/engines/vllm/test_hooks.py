"""Which releases of vLLM are wrapped: those that were read, and one between two of them that is as they are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from ray_warmup.warmup.engines.plugin.error_boundary import when_served
from ray_warmup.warmup.engines.vllm import hooks, versions
from tests.engines.fake_engine import environment
from tests.unit.warmup.engines.vllm.test_plugin import START, python

BETWEEN = "0.32.5"


@pytest.fixture(autouse=True)
def _own_verdict() -> Iterator[None]:
    """No verdict on a release before and after."""
    hooks._refusal.cache_clear()
    yield
    hooks._refusal.cache_clear()


def installed(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """This process imports a vLLM of some version."""
    module = ModuleType("vllm")
    module.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)


def mark(module: ModuleType) -> None:
    """Wrap a function that the module must have."""
    module.wrapped = module.original  # type: ignore[attr-defined]


def module_with_function() -> ModuleType:
    """A module of the engine that is as it was read."""
    module = ModuleType("vllm.part")
    module.original = len  # type: ignore[attr-defined]
    return module


def test_a_release_between_two_that_is_as_they_are_is_wrapped_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is read once, before anything of it is used."""
    installed(monkeypatch, BETWEEN)
    monkeypatch.setattr(versions, "VLLM", replace(versions.VLLM, functions={}, words={}))
    module = module_with_function()

    when_served(mark, hooks._refusal)(module)
    when_served(mark, hooks._refusal)(module_with_function())

    assert module.wrapped is len
    assert caplog.text.count(f"vLLM {BETWEEN} is not known; what is used of it is as in 0.32.0") == 1


def test_a_release_between_two_that_differs_is_left_as_it_is_with_the_list(tmp_path: Path) -> None:
    """The fake engine lacks most of what was read: under `auto` it starts unwrapped, under `require` not at all."""
    environ = environment(tmp_path, FAKE_VLLM_VERSION=BETWEEN)

    done = python(START, environ)
    required = python(START, environ | {"RAY_WARMUP": "require"})

    assert '"hooked": false' in done.stdout, done.stderr
    assert done.stderr.count("the engine starts as without it") == 1
    assert f"vLLM {BETWEEN} is not known and differs in what is used of it (compared with 0.32.0: " in done.stderr
    assert "no vllm/v1/worker/gpu_worker.py" in done.stderr
    assert required.returncode != 0
    assert f"RAY_WARMUP=require: vLLM {BETWEEN} is not known and differs" in required.stderr


def test_a_function_that_is_missing_fails_no_import(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A callback that raised would fail the import of vLLM's own module."""
    installed(monkeypatch, "0.33.0")

    when_served(mark, hooks._refusal)(ModuleType("vllm.part"))
    assert "wrapping vllm.part failed, so the engine starts as without it: AttributeError" in caplog.text

    monkeypatch.setenv("RAY_WARMUP", "require")
    when_served(mark, hooks._refusal)(ModuleType("vllm.part"))
    with pytest.raises(RuntimeError, match=r"RAY_WARMUP=require: wrapping vllm\.part"):
        when_served(mark, hooks._refusal, may_require=True)(ModuleType("vllm.part"))
