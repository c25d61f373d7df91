"""Looking into directories and reading files: what cannot be asked is an error, a stale handle is tried again."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.warmup.disk import attempts
from ray_warmup.warmup.disk.looking import entries, is_there, status_of
from ray_warmup.warmup.disk.publish import publish_bytes
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import StoreError
from tests.troubled_disk import TroubledDisk


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "STALE_PAUSES_S", (0.0, 0.0))


def test_absent_is_an_answer(tmp_path: Path) -> None:
    """What is not there lists as nothing and has no status; what is there has both."""
    (tmp_path / "b").touch()
    (tmp_path / "a").mkdir()

    assert entries(tmp_path / "none") == []
    assert [entry.name for entry in entries(tmp_path)] == ["a", "b"]
    assert (is_there(tmp_path / "a"), is_there(tmp_path / "none"), status_of(tmp_path / "none")) == (True, False, None)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_what_cannot_be_asked_is_never_nothing(tmp_path: Path, number: int, troubled_disk: TroubledDisk) -> None:
    """A directory that cannot be listed and a file that cannot be looked at or read are errors by name, at once."""
    (tmp_path / "file").write_bytes(b"x")
    troubled_disk.refuse(tmp_path, number)

    with pytest.raises(StoreError, match=f"cannot list {tmp_path}"):
        entries(tmp_path)
    with pytest.raises(StoreError, match="cannot look at"):
        is_there(tmp_path / "file")
    with pytest.raises(StoreError, match="cannot read"):
        read_regular(tmp_path / "file", 10)
    assert troubled_disk.refusals == 3


def test_a_stale_handle_is_tried_again_wherever_a_file_is_touched(tmp_path: Path, troubled_disk: TroubledDisk) -> None:
    """Listing, looking, reading and writing all go on after two stale answers, and name the file after three."""
    work: list[Any] = [
        lambda: entries(tmp_path),
        lambda: status_of(tmp_path / "file"),
        lambda: read_regular(tmp_path / "file", 10),
        lambda: publish_bytes(tmp_path / "file", b"y"),
    ]
    (tmp_path / "file").write_bytes(b"x")
    for step in work:
        troubled_disk.refuse(tmp_path, errno.ESTALE, times=2)
        assert step() != []
        assert troubled_disk.refusals == 2
    assert (tmp_path / "file").read_bytes() == b"y"
    for step in work:
        troubled_disk.refuse(tmp_path, errno.ESTALE)
        with pytest.raises(StoreError, match=f"{tmp_path}.*Stale file handle"):
            step()
        troubled_disk.refuse(tmp_path, errno.ESTALE, times=0)
    assert os.listdir(tmp_path) == ["file"]
