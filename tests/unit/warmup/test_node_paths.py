"""Where a node keeps things: config, then the named variable, then XDG, then home; always in the rank's process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.schema import CacheSection
from warmup.errors import StoreError
from warmup.rank.node_paths import NodePaths, resolve_paths


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


def test_paths_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A relative path counts from the working directory of the rank, once."""
    monkeypatch.chdir(tmp_path)
    assert resolved(root="cache").root == tmp_path / "cache"


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
