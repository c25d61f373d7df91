"""New entries appear whole or not at all, and never over anything that is there."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ray_warmup.configs.modes import Modes
from ray_warmup.warmup.disk.create_once import place_directory, place_file
from ray_warmup.warmup.errors import StoreError

FILES = {"kernel.cubin": b"code", "sub/meta.json": b"{}"}


def test_a_new_file_has_bytes_and_modes(tmp_path: Path) -> None:
    """Parents are made with the directory's mode, whatever the umask says."""
    path = tmp_path / "a" / "b.so"
    assert place_file(path, b"code", modes=Modes(0o640, 0o750))
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"code", 0o640)
    assert path.parent.stat().st_mode & 0o777 == 0o750
    assert os.listdir(path.parent) == ["b.so"]


def test_what_is_there_stays(tmp_path: Path) -> None:
    """A file, and a directory of the same name."""
    (tmp_path / "file").write_text("own")
    (tmp_path / "entry").mkdir()
    assert not place_file(tmp_path / "file", b"new")
    assert not place_directory(tmp_path / "entry", FILES)
    assert (tmp_path / "file").read_text() == "own"
    assert list((tmp_path / "entry").iterdir()) == []


def test_a_new_directory_is_whole(tmp_path: Path) -> None:
    """All of its files, and no temporary name beside it."""
    assert place_directory(tmp_path / "entry", FILES)
    found = {p.relative_to(tmp_path / "entry").as_posix(): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == FILES
    assert os.listdir(tmp_path) == ["entry"]


def test_of_many_writers_one_wins(tmp_path: Path) -> None:
    """Each sees a whole entry of one of them, without a lock."""
    contents = [{"a": bytes([n]) * 4096, "b": bytes([n]) * 4096} for n in range(16)]
    with ThreadPoolExecutor(8) as pool:
        wins = list(pool.map(lambda files: place_directory(tmp_path / "entry", files), contents))
    assert sum(wins) == 1
    assert (tmp_path / "entry" / "a").read_bytes() == (tmp_path / "entry" / "b").read_bytes()
    assert os.listdir(tmp_path) == ["entry"]


def test_a_disk_that_refuses_leaves_nothing(tmp_path: Path) -> None:
    """A path below a file is an error that names the path; nothing half-written is left."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot place .*file/entry"):
        place_directory(tmp_path / "file" / "entry", FILES)
    with pytest.raises(StoreError, match=r"cannot place .*file/b\.so"):
        place_file(tmp_path / "file" / "b.so", b"x")
    assert os.listdir(tmp_path) == ["file"]
