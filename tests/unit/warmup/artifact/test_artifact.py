"""Artifacts: packed deterministically, checked before use, decoded within their limits."""

from __future__ import annotations

import dataclasses
import json

import pytest
from backports import zstd

from ray_warmup.warmup.artifact.artifact import Content, check_blob, decode, encode, sha256, verify
from ray_warmup.warmup.artifact.rows import TimingRow
from ray_warmup.warmup.artifact.timings import read_timings, timings_content
from ray_warmup.warmup.errors import CorruptArtifactError, RejectedArtifactError
from tests.artifacts import KEY, make_artifact, make_result, table_bytes

ROW = TimingRow(make_result())


def test_contents_come_back() -> None:
    """What was packed is what `verify` and `contents` give."""
    artifact = make_artifact(3)
    checked = verify(artifact.manifest.to_bytes(), artifact.blobs, KEY)

    assert checked.table == table_bytes(3)
    assert [c.data for c in checked.contents("flashinfer_module")] == [b"gemm" * 2000]


def test_modules_are_compressed_and_tables_are_not() -> None:
    """A module's blob is smaller than the module; the table's blob is the table itself."""
    manifest = make_artifact().manifest
    (module,) = manifest.of_kind("flashinfer_module")

    assert (module.codec, module.size < module.content_size) == ("zstd", True)
    assert manifest.table is not None
    assert manifest.table.sha256 == manifest.table.content_sha256


def test_incompressible_content_is_stored_as_it_is() -> None:
    """zstd is used only where it makes the blob smaller."""
    entry, data = encode(Content("triton_cache", "a/b", b"\x01"))

    assert (entry.codec, data) == ("none", b"\x01")


@pytest.mark.parametrize("damage", ["flipped", "truncated", "longer"])
@pytest.mark.parametrize("kind", ["autotune_configs", "flashinfer_module"])
def test_damaged_blobs_are_refused(kind: str, damage: str) -> None:
    """One flipped bit, a missing or an extra byte in any blob is a CorruptArtifactError naming it."""
    artifact = make_artifact()
    entry = next(blob for blob in artifact.manifest.blobs if blob.kind == kind)
    data = bytes(artifact.blobs[entry.sha256])
    bad = {"flipped": bytes([data[0] ^ 1]) + data[1:], "truncated": data[:-1], "longer": data + b"x"}[damage]

    with pytest.raises(CorruptArtifactError, match=entry.path):
        verify(artifact.manifest, {**artifact.blobs, entry.sha256: bad})


def test_a_blob_that_inflates_past_its_size_is_refused() -> None:
    """A bomb with a correct digest stops at the size that the manifest states."""
    bomb = zstd.compress(bytes(50 << 20))
    entry, _ = encode(Content("flashinfer_module", "a/a.so", b"a" * 1000))
    lying = dataclasses.replace(entry, size=len(bomb), sha256=sha256(bomb))

    with pytest.raises(CorruptArtifactError, match="more than 1000 bytes"):
        decode(lying, bomb)


@pytest.mark.parametrize("data", [b"not zstd at all", zstd.compress(b"a" * 1000)[:-3], zstd.compress(b"a") + b"x"])
def test_broken_frames_are_refused(data: bytes) -> None:
    """Bytes that hash as promised but are no single whole frame are refused."""
    entry, _ = encode(Content("flashinfer_module", "a/a.so", b"a" * 1000))

    with pytest.raises(CorruptArtifactError):
        decode(dataclasses.replace(entry, size=len(data), sha256=sha256(data)), data)


def test_another_class_is_rejected_by_name() -> None:
    """An artifact of another key is refused with the part that differs."""
    artifact = make_artifact()

    with pytest.raises(RejectedArtifactError, match="gpu: stored 'NVIDIA H200', wanted 'NVIDIA B200'"):
        verify(artifact.manifest, artifact.blobs, KEY | {"gpu": "NVIDIA B200"})


def test_a_blob_nobody_named_is_refused() -> None:
    """Extra bytes beside the manifest's blobs are refused."""
    artifact = make_artifact()

    with pytest.raises(CorruptArtifactError, match="not in the manifest"):
        verify(artifact.manifest, {**artifact.blobs, sha256(b"stray"): b"stray"})


def test_missing_blobs_are_not_an_error_of_verify() -> None:
    """A node that has some blobs already receives only the others."""
    artifact = make_artifact()
    (module,) = artifact.manifest.of_kind("flashinfer_module")
    fewer = {digest: data for digest, data in artifact.blobs.items() if digest != module.sha256}

    assert verify(artifact.manifest, fewer).table == table_bytes(1)


def test_timings_count_only_for_their_own_table() -> None:
    """The sidecar is read when it names the table's digest, and ignored otherwise."""
    table = table_bytes(1)
    right, wrong = (
        make_artifact(contents=[Content("autotune_configs", "autotune_configs.json", table), sidecar])
        for sidecar in (timings_content(sha256(table), [ROW]), timings_content(sha256(b"another"), [ROW]))
    )

    assert read_timings(right).rows == (ROW,)
    assert read_timings(wrong).rows == ()


def test_timings_of_another_version_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sidecar whose rows may mean something else is no history, and one without a version neither."""
    sidecar = timings_content(sha256(table_bytes(1)), [ROW])
    artifact = make_artifact(contents=[Content("autotune_configs", "autotune_configs.json", table_bytes(1)), sidecar])
    monkeypatch.setattr("ray_warmup.warmup.artifact.timings.TIMINGS_VERSION", 2)
    assert read_timings(artifact).rows == ()


def test_timings_say_how_they_were_made() -> None:
    """Strategy and guard state stand beside the rows."""
    sidecar = json.loads(timings_content(sha256(table_bytes(1)), [], strategy="sharded", guard="guarded").data)
    assert (sidecar["version"], sidecar["strategy"], sidecar["guard"]) == (1, "sharded", "guarded")


def test_memoryviews_are_checked_without_a_copy() -> None:
    """Blobs that arrive as views of shared memory are accepted as they are."""
    artifact = make_artifact()
    entry = artifact.manifest.blobs[0]

    check_blob(entry, memoryview(bytes(artifact.blobs[entry.sha256])))
