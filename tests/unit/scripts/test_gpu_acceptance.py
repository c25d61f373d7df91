"""`tests.gpu.run_all` without a GPU: what it measures is of this run, and cold where it says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.gpu import run_all


def test_nothing_of_an_earlier_run_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the same directory again: each tune begins with an empty compute cache and without a table to report."""
    found: dict[str, list[str]] = {}

    def run(raw: Path, name: str, arguments: list[str], timeout_s: float, **variables: str) -> dict[str, Any]:
        found[name] = sorted(str(path.relative_to(raw)) for path in raw.rglob("*") if path.is_file())
        if name.startswith("tune"):
            for path in (Path(variables["CUDA_CACHE_PATH"]) / "index", Path(arguments[4]) / "table.json"):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        return {}

    monkeypatch.setattr(run_all, "run", run)
    run_all.tunes(tmp_path, "bf16")
    first = dict(found)
    run_all.tunes(tmp_path, "bf16")
    assert not [name for name in found["tune_bf16_1"] if name.startswith(("bf16_1", "compute_cache_bf16_1"))]
    assert not [name for name in found["tune_bf16_2"] if name.startswith(("bf16_2", "compute_cache_bf16_2"))]
    assert first["loop_bf16"] != [], "the loop has the first tune's table"
