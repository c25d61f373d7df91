"""A callback runs once when a module is imported, now if it is there already, and changes nothing about the import."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ray_warmup.warmup.engines.plugin.import_hooks import when_imported


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with one module that can be imported; `sys` is as before afterwards."""
    name = f"hooked_{tmp_path.name.replace('-', '_')}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "inner.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    finders = list(sys.meta_path)
    yield name
    sys.meta_path[:] = finders
    for loaded in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[loaded]


def test_a_callback_waits_for_the_import(package: str) -> None:
    """It sees the executed module, once, and what it changes is what importers get."""
    seen: list[ModuleType] = []

    def callback(module: ModuleType) -> None:
        seen.append(module)
        module.VALUE = 2  # type: ignore[attr-defined]

    when_imported(f"{package}.inner", callback)
    assert seen == []
    inner = importlib.import_module(f"{package}.inner")
    importlib.import_module(f"{package}.inner")

    assert seen == [inner]
    assert inner.VALUE == 2
    assert type(inner.__loader__).__name__ == "SourceFileLoader"


def test_a_module_that_is_there_calls_back_at_once(package: str) -> None:
    """Whoever comes late misses nothing."""
    inner = importlib.import_module(f"{package}.inner")
    seen: list[ModuleType] = []
    when_imported(f"{package}.inner", seen.append)
    assert seen == [inner]


def test_two_callbacks_of_one_module_both_run(package: str) -> None:
    """In the order in which they came."""
    seen: list[str] = []
    when_imported(f"{package}.inner", lambda module: seen.append("first"))
    when_imported(f"{package}.inner", lambda module: seen.append("second"))
    importlib.import_module(f"{package}.inner")
    assert seen == ["first", "second"]


def test_a_module_that_does_not_exist_is_still_missing(package: str) -> None:
    """Waiting for a name does not make it importable."""
    when_imported(f"{package}.nowhere", lambda module: None)
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        importlib.import_module(f"{package}.nowhere")
