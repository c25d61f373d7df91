"""Calibrations of sparse-MLA decode on another node: where FlashInfer looks, without losing what is there."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.caches import decode_profiles
from ray_warmup.warmup.caches.decode_profiles import FILE_NAME, install
from ray_warmup.warmup.errors import CorruptArtifactError, StoreError


def shipped(document: object) -> tuple[Content, ...]:
    """A calibration, beside a decode table that is merged into the main one and installed with that."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Content("sparse_mla", "autotune_configs.json", b"{}"), Content("sparse_mla", FILE_NAME, data)


def test_the_place_is_flashinfers_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With and without FlashInfer's variable the file is where this process' FlashInfer would read it."""
    import flashinfer
    from flashinfer.jit import env as jit_env
    from flashinfer.mla._sparse_mla_sm120 import _calibration

    base, version = jit_env.FLASHINFER_BASE_DIR, flashinfer.__version__
    arch = str(jit_env.FLASHINFER_WORKSPACE_DIR.relative_to(base / ".cache" / "flashinfer" / version))
    place = decode_profiles.directory({}, base, version, arch)
    monkeypatch.delenv("FLASHINFER_AUTOTUNE_DIR", raising=False)
    assert _calibration.default_cache_path() == place / FILE_NAME
    variable = {"FLASHINFER_AUTOTUNE_DIR": str(tmp_path)}
    monkeypatch.setenv(*next(iter(variable.items())))
    assert _calibration.default_cache_path() == decode_profiles.directory(variable, base, "x", "y") / FILE_NAME


def test_shipped_profiles_join_those_that_are_there(tmp_path: Path) -> None:
    """What was shipped wins, other models' profiles stay, and a second time nothing is written."""
    path = tmp_path / FILE_NAME
    path.write_text(json.dumps({"schema": 1, "devices": {"gpu": {"profiles": {"old": 1, "both": 1}}, "other": {}}}))
    added = {"schema": 2, "devices": {"gpu": {"profiles": {"new": 2, "both": 2}}}}
    assert decode_profiles.install(shipped(added), tmp_path) == [path]
    profiles = {"old": 1, "both": 2, "new": 2}
    assert json.loads(path.read_text()) == {"schema": 2, "devices": {"gpu": {"profiles": profiles}, "other": {}}}
    assert decode_profiles.install(shipped(added), tmp_path) == []


def test_a_damaged_file_is_replaced_and_damaged_profiles_are_refused(tmp_path: Path) -> None:
    """Half a file on the node gives way; what was shipped must be a JSON object."""
    (tmp_path / FILE_NAME).write_text('{"half')
    assert decode_profiles.install(shipped({"devices": {}}), tmp_path)
    assert json.loads((tmp_path / FILE_NAME).read_text()) == {"devices": {}}
    for bad in (b'{"half', b"[1]"):
        with pytest.raises(CorruptArtifactError, match=FILE_NAME):
            decode_profiles.install(shipped(bad), tmp_path)


def test_nothing_shipped_writes_nothing(tmp_path: Path) -> None:
    """An artifact without profiles leaves the directory alone."""
    assert decode_profiles.install((), tmp_path / "autotune") == []
    assert not (tmp_path / "autotune").exists()


@pytest.mark.parametrize("depth", [900, 100_000])
def test_nested_profiles_are_replaced_without_a_crash(tmp_path: Path, depth: int) -> None:
    """A file that no reader can follow counts as damaged, whatever its depth."""
    (tmp_path / FILE_NAME).write_text('{"a":' * depth + "1" + "}" * depth)
    assert install([Content("sparse_mla", FILE_NAME, b'{"x": 1}')], tmp_path) == [tmp_path / FILE_NAME]
    assert json.loads((tmp_path / FILE_NAME).read_bytes()) == {"x": 1}


def test_profiles_that_cannot_be_opened_are_left_alone(tmp_path: Path) -> None:
    """What could not be read is not overwritten."""
    os.mkfifo(tmp_path / FILE_NAME)
    with pytest.raises(StoreError, match="not a regular file"):
        install([Content("sparse_mla", FILE_NAME, b'{"x": 1}')], tmp_path)
    assert stat.S_ISFIFO((tmp_path / FILE_NAME).stat().st_mode)
