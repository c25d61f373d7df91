"""Scratch directories: private, in memory first, gone afterwards, stale ones cleared."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from pathlib import Path

import pytest

from ray_warmup.warmup.device.scratch import PREFIX, STALE_S, scratch_directory


def test_it_is_private_and_goes_away(tmp_path: Path) -> None:
    """Nobody else reads it, and nothing is left, also after an exception."""
    with scratch_directory(tmp_path) as directory:
        (directory / "file").write_text("x")
        assert directory.parent == tmp_path
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), scratch_directory(tmp_path) as directory:
        (directory / "file").write_text(str(1 / 0))
    assert list(tmp_path.iterdir()) == []


def test_without_memory_the_temporary_directory_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no memory directory the usual place is taken."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_directory(tmp_path / "absent") as directory:
        assert directory.parent == tmp_path


def test_only_stale_ones_are_cleared(tmp_path: Path) -> None:
    """What a killed process left an hour ago is removed; what another process uses now is not."""
    old, new = tmp_path / f"{PREFIX}old", tmp_path / f"{PREFIX}new"
    for directory in (old, new):
        directory.mkdir()
    past = time.time() - STALE_S - 60
    os.utime(old, (past, past))
    with scratch_directory(tmp_path):
        assert not old.exists()
        assert new.exists()
