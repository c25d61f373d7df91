"""`ray-warmup env`: lines for a shell that lead to the modules installed for a config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_warmup.configs import ConfigError, WarmupConfig, load_config
from ray_warmup.scripts.env_view import environment_of, show_environment
from ray_warmup.warmup.caches.installed import provider_directory
from ray_warmup.warmup.rank.forecast import forecast_rank
from ray_warmup.warmup.store.node_store import NodeStore
from tests.artifacts import make_artifact


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WarmupConfig:
    """A CPU config whose cache lies in `tmp_path`, in a bare environment."""
    for name in ("PYTHONPATH", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "FLASHINFER_WORKSPACE_BASE", "TRITON_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return load_config("cpu_two_nodes", [f"cache.root={tmp_path / 'root'}", "cluster.simulated_nodes=0"])


def test_without_modules_no_path_is_set(config: WarmupConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing is installed only the places of the caches are printed."""
    assert show_environment(config, 0, None, as_json=False) == 0
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
    show_environment(config, 0, None, as_json=True)
    answer = json.loads(capsys.readouterr().out)

    assert answer["table"] == str(store.table_path)
    assert answer["settings"][-1]["name"] == "PYTHONPATH"
    assert answer["settings"][-1]["value"] == str(provider)
    assert all(setting["why"] for setting in answer["settings"])


def test_a_simulated_node_has_caches_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For a config with simulated nodes one of them must be named, and the printed places are that node's."""
    monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = load_config("cpu_two_nodes")
    environment, table = environment_of(config, 0, 1)
    home = tmp_path / "simulated/node-1"

    values = {setting.name: setting.value for setting in environment.settings}
    assert (values["FLASHINFER_WORKSPACE_BASE"], values["TRITON_CACHE_DIR"]) == (
        str(home / "flashinfer"),
        str(home / "triton"),
    )
    assert table.is_relative_to(home)
    with pytest.raises(ConfigError, match="--node: the config simulates 2 nodes"):
        environment_of(config, 0)
