"""What a node must have before an engine is started on it: the engine, and this project's plugin beside it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from ray_warmup.configs import VERSION
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.warmup.engines.node import installed
from ray_warmup.warmup.engines.node.facts import facts_here
from ray_warmup.warmup.engines.vllm.adapter import VLLM_ADAPTER
from ray_warmup.warmup.errors import EngineError

CONFIG = EngineRunConfig.model_validate(
    {"cluster": {"world_size": 1, "backend": "cpu"}, "engine": {"kind": "vllm", "args": {"model": "m"}}}
)


@pytest.fixture
def having(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what is installed in this environment, by its metadata."""

    def set_up(version: str, *plugins: str) -> None:
        entries = metadata.EntryPoints(
            metadata.EntryPoint(name, "module:function", "vllm.general_plugins") for name in plugins
        )
        monkeypatch.setattr(installed, "installed_version", lambda adapter: version)
        monkeypatch.setattr(metadata, "entry_points", lambda *, group: entries.select(group=group))

    return set_up


def test_a_node_without_the_wheel_is_told_what_to_install(having: Callable[..., None]) -> None:
    """The engine would start and load no plugin, so nothing could be recorded there."""
    having("0.33.0", "somebody_elses")
    with pytest.raises(EngineError, match="so vLLM would not load its plugin") as told:
        facts_here(CONFIG)
    assert f"pip install ray-warmup=={VERSION} into the engine's environment" in told.value.message


def test_a_node_without_the_engine_is_named(having: Callable[..., None]) -> None:
    """Whatever plugins are there."""
    having("", "ray_warmup")
    with pytest.raises(EngineError, match=r"vLLM is not installed there; engine\.kind is vllm"):
        facts_here(CONFIG)


def test_a_whole_node_says_its_version_and_processor(having: Callable[..., None]) -> None:
    """On the cpu backend nodes of one architecture are one class."""
    having("0.33.0", "ray_warmup")
    facts = facts_here(CONFIG)
    assert (facts.engine_version, facts.device, facts.driver) == ("0.33.0", platform.machine(), "")


@pytest.mark.parametrize("version", [VERSION, "0.1.9"])
def test_a_node_with_another_wheel_than_the_jobs_code_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """A job brings its own code, and the engine loads the plugin of what is installed."""
    folder = tmp_path / f"ray_warmup-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ray-warmup\nVersion: {version}\n")
    (folder / "entry_points.txt").write_text("[vllm.general_plugins]\nray_warmup = a:b\n")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.setattr(installed, "installed_version", lambda adapter: "0.33.0")

    if version == VERSION:
        assert facts_here(CONFIG).engine_version == "0.33.0"
        assert installed.hidden_plugin(VLLM_ADAPTER, {}) is None
        return
    with pytest.raises(
        EngineError, match=f"ray-warmup 0.1.9 is installed there and this run's code is {VERSION}"
    ) as told:
        facts_here(CONFIG)
    assert f"pip install ray-warmup=={VERSION}" in told.value.message
    assert "0.1.9" in str(installed.hidden_plugin(VLLM_ADAPTER, {}))
