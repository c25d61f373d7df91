"""Where a node keeps things: config, then the named variable, then XDG, then home; always in the rank's process."""

from __future__ import annotations

import json
import pwd
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.configs import ConfigError, load_config
from ray_warmup.configs.loader import parse_cache
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.errors import StoreError
from ray_warmup.warmup.store.node_paths import NodePaths, environments_here, flashinfer_environment, resolve_paths


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A home directory that is nobody's, and no FlashInfer workspace."""
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("FLASHINFER_WORKSPACE_BASE", raising=False)


def resolved(**fields: Any) -> NodePaths:
    """Paths of a cache section with these fields."""
    return resolve_paths(CacheSection(**fields))


def test_home_is_the_last_resort() -> None:
    """With nothing set it is ~/.cache/ray-warmup, FlashInfer's workspace below it, no override."""
    root = Path("/home/someone/.cache/ray-warmup")
    assert resolved() == NodePaths(root, None, root / "flashinfer")


def test_xdg_comes_before_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """$XDG_CACHE_HOME replaces ~/.cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert resolved().root == Path("/xdg/ray-warmup")


def test_the_variable_comes_before_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    """$RAY_WARMUP_CACHE_ROOT, or whichever variable the config names, is the root itself."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", "/ours")
    monkeypatch.setenv("SITE_CACHE", "~/site")
    assert resolved().root == Path("/ours")
    assert resolved(root_env="SITE_CACHE").root == Path("/home/someone/site")


def test_the_config_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A root and an override in the config win over the variables."""
    monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", "/ours")
    monkeypatch.setenv("RAY_WARMUP_CACHE_DIR", "/there")
    assert resolved().override == Path("/there")
    found = resolved(root="~/cache", override_dir="~")
    assert (found.root, found.override) == (Path("/home/someone/cache"), Path("/home/someone"))


@pytest.mark.parametrize("text", [".", "cache", "./cache", "/a:b", "/a\tb"])
def test_a_root_is_one_place_for_every_process(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A relative one would be another for each, a ':' two on a path: refused, by field or variable, value and rule."""
    with pytest.raises(ConfigError, match=r"cache\.root: .*must"):
        load_config("cpu_two_nodes", [f"cache.root={json.dumps(text)}"])
    with pytest.raises(ConfigError, match=r"cache\.override_dir: .*must"):
        parse_cache({"override_dir": text})
    for name in ("RAY_WARMUP_CACHE_ROOT", "RAY_WARMUP_CACHE_DIR"):
        with monkeypatch.context() as patch:
            patch.setenv(name, text)
            with pytest.raises(ConfigError, match=f"{name}: .*must"):
                resolved()


def test_a_relative_xdg_directory_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As its specification asks."""
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert resolved().root == Path("/home/someone/.cache/ray-warmup")


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container whose user has neither HOME nor a name."""

    def unknown(user: int) -> None:
        raise KeyError(user)

    for name in ("HOME", "XDG_CACHE_HOME", "RAY_WARMUP_CACHE_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("fields", [{}, {"root": "~/cache"}, {"root": "/cache", "override_dir": "~"}])
def test_without_a_home_the_settings_are_named(fields: dict[str, str]) -> None:
    """Where a home is needed: HOME, and what to set instead."""
    with pytest.raises(
        ConfigError, match=r"HOME is not set.*cache\.root, RAY_WARMUP_CACHE_ROOT, XDG_CACHE_HOME or HOME"
    ):
        resolved(**fields)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_flashinfer_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a root everything works: FlashInfer, which asks for a home whatever its workspace is, gets the root."""
    paths = resolved(root="/ours")
    assert flashinfer_environment(paths) == {"FLASHINFER_WORKSPACE_BASE": "/ours/flashinfer", "HOME": "/ours"}
    monkeypatch.setenv("HOME", "/home/someone")
    assert "HOME" not in flashinfer_environment(paths)


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_root_is_no_root(empty: str | None) -> None:
    """An empty string does not put the cache into the working directory."""
    assert resolved(root=empty, override_dir=empty) == resolved()


def test_another_users_home_is_looked_up_or_refused() -> None:
    """~root is that user's home; a user that does not exist is refused by name."""
    assert resolved(root="~root/cache").root == Path("~root").expanduser() / "cache"
    with pytest.raises(StoreError, match=r"~nobody-of-that-name/x: .*change cache\.root"):
        resolved(root="~nobody-of-that-name/x")


def test_the_workspace_may_lie_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """$FLASHINFER_WORKSPACE_BASE is respected where the node sets it."""
    monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", "/fast/ws")
    assert resolved().workspace == Path("/fast/ws")


def test_each_simulated_node_has_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every node that a config simulates gets directories of its own below the root; one can be asked for alone."""
    monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", "/ours")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = load_config("cpu_two_nodes")
    found = [resolve_paths(config.cache, environment) for environment in environments_here(config)]

    assert [paths.root for paths in found] == [Path("/ours/simulated/node-0"), Path("/ours/simulated/node-1")]
    assert [paths.workspace for paths in found] == [paths.root / "flashinfer" for paths in found]
    assert environments_here(config, 1) == environments_here(config)[1:]
    with pytest.raises(ConfigError, match=r"--node: 2: it simulates nodes 0 to 1"):
        environments_here(config, 2)


def test_a_run_on_a_cluster_simulates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an address is known this machine is one real node, and naming another one is refused."""
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert environments_here(load_config("cpu_two_nodes")) == ({},)
    with pytest.raises(ConfigError, match="it simulates no nodes"):
        environments_here(load_config("cpu_two_nodes"), 0)


def test_a_root_in_the_config_is_every_simulated_node_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a rank: what the config says wins over the node's environment."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = load_config("cpu_two_nodes", ["cache.root=/one"])
    assert {resolve_paths(config.cache, node).root for node in environments_here(config)} == {Path("/one")}
