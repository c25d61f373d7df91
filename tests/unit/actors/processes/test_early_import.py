"""Imports that begin before a rank is placed."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from ray_warmup.actors.processes.rank_actor import import_early
from ray_warmup.configs import load_config

MODULE = "early_tuner_of_this_test"


@pytest.fixture
def tuner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tuner module that nobody has imported."""
    (tmp_path / f"{MODULE}.py").write_text("make = print\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", str(tmp_path / "workspace"))
    return f"{MODULE}:make"


def test_the_tuner_is_imported(tuner: str) -> None:
    """Afterwards the tuner's module is there, so PROBING need not wait."""
    import_early(load_config("cpu_two_nodes", []), tuner)
    assert sys.modules[MODULE].make is print


def test_nothing_is_imported_where_nothing_is_tuned(tuner: str) -> None:
    """With autotune off no rank needs FlashInfer."""
    import_early(load_config("cpu_two_nodes", ["autotune.enabled=false"]), tuner)
    assert MODULE not in sys.modules


def test_a_failure_is_left_to_probing(tuner: str, caplog: pytest.LogCaptureFixture) -> None:
    """An import that fails is logged, not raised: PROBING meets it again and fails the run with its name."""
    with caplog.at_level(logging.INFO):
        import_early(load_config("cpu_two_nodes", []), "no_such_module_anywhere:make")
    assert "early import of no_such_module_anywhere:make" in caplog.text
