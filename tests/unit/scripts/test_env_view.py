"""`ray-warmup env`: lines for a shell that lead to the modules installed for a config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs import WarmupConfig, load_config
from scripts.env_view import show_environment
from tests.artifacts import make_artifact
from warmup.compiled.installed import provider_directory
from warmup.rank.forecast import forecast_rank
from warmup.store.node_store import NodeStore


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WarmupConfig:
    """A CPU config whose cache lies in `tmp_path`, in a bare environment."""
    for name in ("PYTHONPATH", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "FLASHINFER_WORKSPACE_BASE", "TRITON_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return load_config("cpu_two_nodes", [f"cache.root={tmp_path / 'root'}"])


def test_without_modules_no_path_is_set(config: WarmupConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing is installed only the places of the caches are printed."""
    assert show_environment(config, 0, as_json=False) == 0
    names = [line.split("=")[0] for line in capsys.readouterr().out.splitlines()]

    assert names == [
        "export FLASHINFER_WORKSPACE_BASE",
        "export TRITON_CACHE_DIR",
        "export CUDA_CACHE_PATH",
    ]


def test_installed_modules_are_put_on_the_path(config: WarmupConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """The current artifact's provider is named, and JSON says why each variable is there."""
    forecast = forecast_rank(config, 0)
    store = NodeStore(forecast.table_path.parent)
    artifact = make_artifact(key=forecast.key.as_dict(), key_sha256=forecast.key.sha256)
    store.publish(artifact)
    provider = provider_directory(store.directory, artifact.manifest.module_set)
    (provider / "flashinfer_jit_cache").mkdir(parents=True)
    (provider / "flashinfer_jit_cache/__init__.py").write_text("")
    show_environment(config, 0, as_json=True)
    answer = json.loads(capsys.readouterr().out)

    assert answer["table"] == str(store.table_path)
    assert answer["settings"][-1]["name"] == "PYTHONPATH"
    assert answer["settings"][-1]["value"] == str(provider)
    assert all(setting["why"] for setting in answer["settings"])
