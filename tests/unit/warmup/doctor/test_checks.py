"""Checks of a node: what is wrong is found, and every warning and error has its remedy."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.doctor import artifacts, disks, packages, sharing
from ray_warmup.warmup.doctor.all_checks import check_node
from ray_warmup.warmup.doctor.finding import Finding, warning
from ray_warmup.warmup.engines.adapter.adapter import EngineAdapter
from ray_warmup.warmup.engines.node.request_status import EngineStanding
from ray_warmup.warmup.families import known
from ray_warmup.warmup.signing.keys import new_key, write_pair
from ray_warmup.warmup.signing.policy import believe
from tests.artifacts import KEY_SHA256, make_artifact


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", str(tmp_path / "cache"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


def texts(found: object, level: str) -> str:
    """What was found at a level."""
    assert isinstance(found, tuple)
    return "\n".join(row.text for row in found if row.level == level)


def test_a_healthy_node_has_no_error(tmp_path: Path) -> None:
    """This environment itself."""
    found = check_node(CacheSection())
    assert texts(found, "error") == ""
    assert "ray-warmup" in texts(found, "ok")
    assert not (tmp_path / "cache").exists()  # nothing was made


def test_a_problem_without_a_remedy_is_none() -> None:
    """A check cannot be written without one."""
    with pytest.raises(ValueError, match="without a remedy"):
        warning("cache", "something is odd", "")


def test_another_version_and_another_copy_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel of another version, and a package of the same name earlier on the path."""
    monkeypatch.setattr(packages, "VERSION", "9.9.9")
    (tmp_path / "ray_warmup").mkdir()
    (tmp_path / "ray_warmup" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    found = tuple(packages.own_copy())
    assert "the code that runs is 9.9.9" in texts(found, "error")
    assert f"{tmp_path}/ray_warmup is another ray_warmup" in texts(found, "warning")


def test_an_unknown_flashinfer_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that nobody has read."""
    monkeypatch.setattr(packages, "version_of", lambda name: "0.1.0")
    assert "0.1.0" in texts(tuple(packages.libraries()), "error")
    monkeypatch.setattr(packages, "version_of", lambda name: known.known_versions()[-1])
    assert texts(tuple(packages.libraries()), "error") == ""


def test_a_package_out_of_range_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another Ray than was tried; packages that an engine's environment lacks are no problem."""
    assert "in range" in texts(tuple(packages.requirements()), "ok")
    monkeypatch.setattr(packages, "version_of", lambda name: {"ray": "1.0.0"}.get(name, packages.UNKNOWN))
    assert "ray 1.0.0 (wanted" in texts(tuple(packages.requirements()), "error")


def test_a_disk_with_another_clock_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server's clock ages leases, so it must agree."""
    assert "has this machine's time" in texts(tuple(disks.caches(CacheSection())), "ok")
    monkeypatch.setattr(disks, "now_in", lambda place: time.time() + 600)
    assert "s ahead of this machine's clock" in texts(tuple(disks.caches(CacheSection())), "warning")


def test_a_cache_that_others_can_write_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels in it would be code of whoever wrote them; a rank refuses it, so the doctor says so before."""
    (tmp_path / "triton").mkdir()
    assert texts(tuple(disks.compilers(CacheSection())), "error") == ""
    (tmp_path / "triton").chmod(0o777)
    assert "TRITON_CACHE_DIR" in texts(tuple(disks.compilers(CacheSection())), "error")


@pytest.mark.parametrize(("state", "level"), [("ready", "ok"), ("unproven", "warning"), ("failed", "warning")])
def test_artifacts_of_engines_are_checked(state: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each one by name, with what to do where an engine would not start on it."""
    standing = EngineStanding(state, "as it stands", "/cache/engine_caches/vllm/0.33.0/k", "vllm 0.33.0")
    monkeypatch.setattr(artifacts, "all_standings", lambda section: [standing])
    (found,) = artifacts.of_engines(CacheSection())
    assert (found.level, "vllm 0.33.0 in /cache" in found.text) == (level, True)


def of_vllm(version: str) -> Callable[[EngineAdapter], str]:
    """A version of vLLM, and no other engine."""
    return lambda adapter: version if adapter.name == "vllm" else ""


def test_a_hidden_plugin_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """VLLM_PLUGINS without this project, and RAY_WARMUP=off."""
    monkeypatch.setattr(packages.installed, "installed_version", of_vllm("0.33.0"))
    monkeypatch.setattr(packages.installed, "missing_bytecode", lambda adapter: None)
    assert "vLLM loads the plugin" in texts(tuple(packages.engines()), "ok")
    monkeypatch.setenv("VLLM_PLUGINS", "lora_resolver")
    assert "VLLM_PLUGINS=lora_resolver" in texts(tuple(packages.engines()), "warning")
    monkeypatch.delenv("VLLM_PLUGINS")
    monkeypatch.setenv("RAY_WARMUP", "off")
    assert "switches the plugin off" in texts(tuple(packages.engines()), "warning")


def test_a_release_that_is_not_served_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine older than all that were read."""
    monkeypatch.setattr(packages.installed, "installed_version", of_vllm("0.1.0"))
    monkeypatch.setattr(packages.installed, "missing_bytecode", lambda adapter: None)
    assert "0.1.0" in texts(tuple(packages.engines()), "error")


@pytest.mark.parametrize("case", ["open", "file", "full", "damaged"])
def test_a_cache_in_a_bad_state_is_found(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writable by everybody, below a file, without room, or with a damaged store."""
    from ray_warmup.warmup.store.node_store import NodeStore

    root = tmp_path / "cache"
    if case == "file":
        root.write_text("")
        monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", str(root / "below"))
    else:
        root.mkdir(mode=0o700)
    if case == "open":
        root.chmod(0o777)
    if case == "full":
        monkeypatch.setattr(disks, "FEW_BYTES", 1 << 62)
    if case == "damaged":
        store = NodeStore(root / "flashinfer_autotune_cache" / "0.7.2" / "sm90" / KEY_SHA256)
        store.publish(make_artifact(1))
        (store.directory / "current").write_bytes(b"{")
    found = tuple(disks.caches(CacheSection()))
    expected = {
        "open": ("error", "can be written by everybody"),
        "file": ("error", "nothing can be kept there"),
        "full": ("warning", "GiB free at"),
        "damaged": ("warning", KEY_SHA256),
    }[case]
    assert expected[1] in texts(found, expected[0])


def test_keys_are_checked_before_a_run_needs_them(tmp_path: Path) -> None:
    """No trusted key, no signing key, and a signing key that nobody trusts."""
    mine, other = new_key(), new_key()
    write_pair(mine, tmp_path / "k.key", tmp_path / "k.pub")
    try:
        assert "no key is trusted" in texts(tuple(sharing.keys(CacheSection(trust="signed"))), "error")
        theirs = CacheSection(trust="signed", public_keys=(other.public.word,))
        assert "cannot tune" in texts(tuple(sharing.keys(theirs)), "warning")
        foreign = theirs.model_copy(update={"signing_key": str(tmp_path / "k.key")})
        assert "is not trusted" in texts(tuple(sharing.keys(foreign)), "error")
        own = foreign.model_copy(update={"public_keys": (str(tmp_path / "k.pub"),)})
        assert {row.level for row in sharing.keys(own)} == {"ok"}
    finally:
        believe(CacheSection())


def test_a_remote_store_is_asked(tmp_path: Path) -> None:
    """One that answers, and one that cannot."""
    there = CacheSection(remote=f"file://{tmp_path}/remote", remote_timeout=5)
    assert "0 artifacts" in texts(tuple(sharing.remote(there)), "ok")
    absent = CacheSection(remote="gopher://nowhere/x", remote_timeout=5)
    assert "gopher" in texts(tuple(sharing.remote(absent)), "error")
    assert tuple(sharing.remote(CacheSection())) == ()


def test_the_command_prints_and_exits(tmp_path: Path) -> None:
    """A new process, as an operator runs it; exit 1 with the remedy where something will fail."""
    command = [sys.executable, "-m", "ray_warmup.scripts.cli", "doctor"]
    good = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (good.returncode, good.stdout.splitlines()[-1][:8]) == (0, "0 errors")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    bad = subprocess.run([*command, "--quiet"], capture_output=True, text=True, timeout=120)
    assert bad.returncode == 1
    assert "take the right to write away from others" in bad.stdout


def test_findings_travel_between_processes() -> None:
    """As an answer of a node's task."""
    import pickle

    row = warning("cache", "text", "remedy")
    assert pickle.loads(pickle.dumps(row)) == row == Finding("warning", "cache", "text", "remedy")
