"""Whose files are believed, and where code may be loaded from: owners, modes and every directory above."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_warmup.configs import ConfigError
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.disk import trust
from ray_warmup.warmup.disk.publish import publish_bytes
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.disk.trust import believe, believed, code_refusal, contents_refusal, stranger
from ray_warmup.warmup.errors import StoreError
from ray_warmup.warmup.store.node_store import NodeStore
from tests.artifacts import KEY, make_artifact

STRANGER, GROUP = 54321, 54322
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="files of other users can only be made by root")


@pytest.fixture(autouse=True)
def _nobody_else(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins and ends with nobody believed but this user and root."""
    for name in ("RAY_WARMUP_TRUSTED_UIDS", "RAY_WARMUP_TRUSTED_GIDS"):
        monkeypatch.delenv(name, raising=False)
    believe(CacheSection())
    yield
    believe(CacheSection())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory two levels down that only this user can write."""
    directory = tmp_path / "a" / "b"
    directory.mkdir(parents=True, mode=0o755)
    return directory


def test_a_directory_of_this_user_alone_is_fine(place: Path) -> None:
    """Below /tmp, which everybody can write, but which is sticky."""
    assert (code_refusal(place), contents_refusal(place)) == (None, None)
    assert os.stat("/tmp").st_mode & 0o1002 == 0o1002


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (0o777, "can be written by everybody (mode 0777)"),
        (0o757, "can be written by everybody (mode 0757)"),
        (0o775, "can be written by group"),
        (0o2775, "can be written by group"),
    ],
)
def test_what_others_can_write_gives_no_code(place: Path, level: int, mode: int, words: str) -> None:
    """The directory itself, or one above it."""
    culprit = (place, place.parent)[level]
    culprit.chmod(mode)
    why = code_refusal(place)
    assert why is not None
    assert why.startswith(f"{culprit} {words}")


def test_sticky_is_for_directories_above_alone(place: Path) -> None:
    """In a sticky directory of everybody's own, anybody may lay a module beside ours."""
    place.parent.chmod(0o1777)
    assert code_refusal(place) is None
    place.chmod(0o1777)
    assert "can be written by everybody (mode 1777)" in (code_refusal(place) or "")


def test_the_directories_above_a_link_count_too(place: Path, tmp_path: Path) -> None:
    """Who can replace the link decides what it leads to."""
    exposed = tmp_path / "exposed"
    exposed.mkdir()
    exposed.chmod(0o777)
    (exposed / "link").symlink_to(place)
    assert f"{exposed} can be written by everybody" in (code_refusal(exposed / "link") or "")
    (tmp_path / "link").symlink_to(place)
    assert code_refusal(tmp_path / "link") is None


def test_what_is_not_there_gives_no_code(place: Path) -> None:
    """It is named, not raised."""
    assert "cannot be looked at" in (code_refusal(place / "absent") or "")
    assert "cannot be looked through" in (contents_refusal(place / "absent") or "")


@as_root
def test_a_volume_of_a_group_is_believed_by_name(place: Path) -> None:
    """As Kubernetes makes one with fsGroup: root's, setgid, writable by the pod's group."""
    volume = place.parent
    os.chown(volume, 0, GROUP)
    volume.chmod(0o2775)
    inside = volume / "cache" / "modules"
    inside.mkdir(parents=True, mode=0o755)
    why = code_refusal(inside) or ""
    assert f"{volume} can be written by group {GROUP} (mode 2775)" in why
    assert f"name {GROUP} in cache.trusted_gids" in why
    believe(CacheSection(trusted_gids=(GROUP,)))
    assert code_refusal(inside) is None
    believe(CacheSection(trusted_gids=(GROUP + 1,)))
    assert code_refusal(inside) is not None


@as_root
@pytest.mark.parametrize("what", ["file", "directory above", "directory"])
def test_root_believes_no_stranger(place: Path, what: str) -> None:
    """Neither a file, nor a directory, nor one above; a named user is believed."""
    file = place / "x.so"
    file.write_bytes(b"x")
    os.chown({"file": file, "directory above": place.parent, "directory": place}[what], STRANGER, -1)
    why = code_refusal(place) or contents_refusal(place) or ""
    assert f"belongs to user {STRANGER}, this process is user 0" in why
    assert f"name {STRANGER} in cache.trusted_uids" in why
    believe(CacheSection(trusted_uids=(STRANGER,)))
    assert code_refusal(place) is None
    assert contents_refusal(place) is None


@as_root
def test_root_reads_and_writes_nothing_of_a_strangers(tmp_path: Path) -> None:
    """A file is not read, a directory not written into, a whole store no hit, each by name; until the user is named."""
    store = NodeStore(tmp_path / ("ab" * 32))
    store.publish(make_artifact())
    assert store.lookup(KEY).hit
    for path in (store.directory, *store.directory.rglob("*")):
        os.chown(path, STRANGER, STRANGER)
    found = store.lookup(KEY)
    assert not found.hit
    assert f"belongs to user {STRANGER}" in found.reason
    with pytest.raises(StoreError, match=f"name {STRANGER} in cache.trusted_uids"):
        read_regular(store.table_path, 1 << 20)
    with pytest.raises(StoreError, match=f"name {STRANGER} in cache.trusted_uids"):
        publish_bytes(store.directory / "x", b"x")
    believe(CacheSection(trusted_uids=(STRANGER,)))
    assert store.lookup(KEY).hit
    publish_bytes(store.directory / "x", b"x")


@as_root
def test_a_directory_of_a_strangers_with_files_of_roots_is_no_store(tmp_path: Path) -> None:
    """Its owner can put other files in their place at any moment."""
    store = NodeStore(tmp_path / ("ab" * 32))
    store.publish(make_artifact())
    os.chown(store.directory, STRANGER, -1)
    found = store.lookup(KEY)
    assert (found.hit, f"{store.directory} belongs to user {STRANGER}" in found.reason) == (False, True)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_only_files_and_directories_are_loaded_from(place: Path, kind: str) -> None:
    """A link leads to what was not looked at."""
    path = place / "modules" / "x.so"
    path.parent.mkdir()
    path.symlink_to("/etc/hostname") if kind == "link" else os.mkfifo(path)
    assert contents_refusal(place) == f"{path} is a link or another special file"


def test_a_file_that_others_can_write_gives_no_code(place: Path) -> None:
    """However safe the directories are."""
    (place / "x.so").touch()
    (place / "x.so").chmod(0o666)
    assert f"{place / 'x.so'} can be written by everybody" in (contents_refusal(place) or "")


def test_processes_without_a_config_are_told_by_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what a config says; anything but numbers is refused by name."""
    assert stranger(STRANGER) is not None
    monkeypatch.setenv("RAY_WARMUP_TRUSTED_UIDS", f"7,{STRANGER}")
    monkeypatch.setenv("RAY_WARMUP_TRUSTED_GIDS", "9")
    believe(CacheSection(trusted_uids=(8,)))
    assert believed() == trust.Trust(frozenset({7, 8, STRANGER}), frozenset({9}))
    assert stranger(STRANGER) is None
    for wrong in ("root", "-1", "1,,2", "٣", str(1 << 40)):
        monkeypatch.setenv("RAY_WARMUP_TRUSTED_UIDS", wrong)
        with pytest.raises(ConfigError, match=r"RAY_WARMUP_TRUSTED_UIDS: .*must be numbers"):
            believed()
