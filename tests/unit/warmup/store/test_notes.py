"""Notes: what is written is read back, files of earlier releases too, and what cannot be read is no note."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_warmup.warmup.caches.placed import register
from ray_warmup.warmup.engines.artifacts import request_index
from ray_warmup.warmup.engines.artifacts.request_index import RequestRow
from ray_warmup.warmup.store.notes import MAX_NOTE_BYTES, read_note, write_note

ROW = RequestRow("vllm", "0.33.0", "ab" * 32)


def test_a_note_is_read_back(tmp_path: Path) -> None:
    """One value in one file; none before it is written."""
    path = tmp_path / "deep" / "note.json"
    assert read_note(RequestRow, path) is None
    write_note(path, ROW)
    assert read_note(RequestRow, path) == ROW


def test_files_of_earlier_releases_are_read(tmp_path: Path) -> None:
    """Their bytes are those that are written now."""
    request = b'{"engine": "vllm", "version": "1", "key_sha256": "2"}\n'
    (tmp_path / "request.json").write_bytes(request)
    row = RequestRow("vllm", "1", "2")
    assert read_note(RequestRow, tmp_path / "request.json") == row
    write_note(tmp_path / "again.json", row)
    assert (tmp_path / "again.json").read_bytes() == request
    request_index.note(tmp_path, "d", row)
    assert request_index.find(tmp_path, "d") == row
    assert list(register(tmp_path).directories()) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b'{"engine": "vllm"}',
        b'{"engine": "vllm", "version": 1, "key_sha256": "x"}',
        b'{"engine": "vllm", "version": "1", "key_sha256": "x", "more": 1}',
        b'{"engine": "a", "engine": "b", "version": "1", "key_sha256": "x"}',
        b" " * (MAX_NOTE_BYTES + 1),
    ],
)
def test_what_cannot_be_read_is_no_note(tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It is named with the reason and ignored."""
    path = tmp_path / "note.json"
    path.write_bytes(data)
    assert read_note(RequestRow, path) is None
    assert str(path) in caplog.text
