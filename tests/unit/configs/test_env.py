"""The environment table: what is read, forwarded, set, and what never leaves its node."""

from __future__ import annotations

import pytest

from ray_warmup.configs import ConfigError, env

LOCATIONS = {
    "RAY_WARMUP_CACHE_ROOT",
    "RAY_WARMUP_CACHE_DIR",
    "XDG_CACHE_HOME",
    "HOME",
    "TMPDIR",
    "FLASHINFER_WORKSPACE_BASE",
    "TRITON_CACHE_DIR",
    "CUDA_CACHE_PATH",
}


def test_a_name_outside_the_table_is_refused() -> None:
    """Reading a variable that is not in the table is a programming error, unless the config named it."""
    with pytest.raises(KeyError, match="SOME_OTHER is not in"):
        env.read("SOME_OTHER")
    assert env.read("SOME_OTHER", configured=True) is None


def test_an_empty_value_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exported empty string does not become an empty path."""
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert env.read("XDG_CACHE_HOME") is None
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert env.read("XDG_CACHE_HOME") == "/x"


def test_locations_are_never_forwarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the driver has as its cache, home and temporary directory, no rank hears of it."""
    for name in LOCATIONS:
        monkeypatch.setenv(name, "/driver")
    assert {v.name: v.handling for v in env.TABLE if v.name in LOCATIONS} == dict.fromkeys(LOCATIONS, "local")
    assert not LOCATIONS & set(env.rank_environment())


def test_ranks_get_the_set_and_the_forwarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixed values win over the driver's, forwarded ones go along only where the driver has them."""
    monkeypatch.setenv("TQDM_DISABLE", "0")
    fixed = {v.name: v.value for v in env.TABLE if v.handling == "set"}
    assert fixed["TQDM_DISABLE"] == "1"
    assert env.rank_environment() == fixed
    monkeypatch.setenv("RAY_WARMUP_LOG_LEVEL", "DEBUG")
    assert env.rank_environment() == {**fixed, "RAY_WARMUP_LOG_LEVEL": "DEBUG"}
    monkeypatch.setenv("RAY_WARMUP_LOG_LEVEL", "loud")
    with pytest.raises(ConfigError, match=r"RAY_WARMUP_LOG_LEVEL: 'loud': must be one of INFO, DEBUG"):
        env.rank_environment()


def test_the_table_is_whole() -> None:
    """Each variable stands once, says what it means, and only `set` ones have a value."""
    assert len({v.name for v in env.TABLE}) == len(env.TABLE)
    assert all(v.meaning for v in env.TABLE)
    assert all((v.value is not None) == (v.handling == "set") for v in env.TABLE)


def test_export_and_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """`export` changes this process, a snapshot taken before does not follow."""
    monkeypatch.delenv("RAY_WARMUP_LOG_LEVEL", raising=False)
    before = env.snapshot()
    env.export({"RAY_WARMUP_LOG_LEVEL": "INFO"})
    assert env.read("RAY_WARMUP_LOG_LEVEL") == "INFO"
    assert "RAY_WARMUP_LOG_LEVEL" not in before
