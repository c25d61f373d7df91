"""Bombs: what a small archive may make of a process, in bytes of memory, and what is refused before it is inflated."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from ray_warmup.warmup.artifact.archive import Place, archive_bytes
from ray_warmup.warmup.artifact.artifact import Artifact, Content, decode, encode, sha256, verify
from ray_warmup.warmup.artifact.compression import FREE_BYTES, LIMITS, MAX_RATIO, compressed, oversize
from ray_warmup.warmup.artifact.manifest import BlobEntry, GuardSummary, KeyEntry, Kind, Manifest
from ray_warmup.warmup.caches.compiled_part import NodeKernelCaches
from ray_warmup.warmup.errors import CorruptArtifactError, RejectedArtifactError
from tests.artifacts import KEY, KEY_SHA256, ROOT, make_artifact

MIB = 1 << 20
CHILD = """
import sys
from pathlib import Path
from ray_warmup.warmup.artifact.archive import read_archive
from ray_warmup.warmup.errors import WarmupError
try:
    _, artifact = read_archive(Path(sys.argv[1]))
    said = [len(artifact.contents(kind)) for kind in ("triton_cache", "flashinfer_module", "cuda_compute_cache")]
except WarmupError as error:
    said = error
status = Path("/proc/self/status").read_text().split()
print(int(status[status.index("VmHWM:") + 1]) >> 10, said)
"""


def declared(kind: Kind, path: str, content: bytes, codec: Any = "zstd") -> tuple[BlobEntry, bytes]:
    """A blob as its maker declares it, whatever this project would have stored."""
    data = zstd.compress(content) if codec == "zstd" else content
    return BlobEntry(kind, path, len(data), sha256(data), codec, len(content), sha256(content)), data


def artifact_of(*rows: tuple[BlobEntry, bytes]) -> Artifact:
    """An artifact with exactly these blobs."""
    manifest = Manifest(
        schema_version=1,
        generation=0,
        key=KeyEntry(KEY_SHA256, tuple(KEY.items())),
        fingerprint=(("torch", "2.13.0"),),
        created_at=1.0,
        strategy="leader",
        guard=GuardSummary("guarded", {}),
        blobs=tuple(sorted((entry for entry, _ in rows), key=lambda entry: (entry.kind, entry.path))),
    )
    return Artifact(manifest, {entry.sha256: data for entry, data in rows})


def bombs() -> dict[str, Artifact]:
    """Small archives that declare, or hide, much content."""
    zeros = declared("triton_cache", "k/bomb.cubin", bytes(48 * MIB))
    lie = dataclasses.replace(zeros[0], content_size=1000)
    modules = [declared("flashinfer_module", f"m{n}/m{n}.so", bytes([n]) * (256 * MIB)) for n in range(2)]
    shared = declared("triton_cache", "k/a", b"x" * FREE_BYTES)
    copies = [(dataclasses.replace(shared[0], path=f"k{n}/a"), shared[1]) for n in range(400)]
    return {
        "one large content": artifact_of(zeros),
        "one that lies about its size": artifact_of((lie, zeros[1])),
        "several modules": artifact_of(*modules),
        "a table that is compressed": artifact_of(declared("autotune_configs", "autotune_configs.json", bytes(MIB))),
        "one blob under many names": artifact_of(*copies),
    }


@pytest.fixture(scope="module")
def made() -> dict[str, Artifact]:
    """The bombs, built once."""
    return bombs()


NAMES = ["one large content", "one that lies about its size", "several modules", "a table that is compressed"]


@pytest.mark.parametrize("name", [*NAMES, "one blob under many names"])
def test_a_small_archive_takes_little_memory(tmp_path: Path, made: dict[str, Artifact], name: str) -> None:
    """Reading it in a process of its own stays below 128 MiB, interpreter included, and it is refused by name."""
    file = tmp_path / "bomb.rwa"
    file.write_bytes(archive_bytes(Place("0.7.2", "90a", KEY_SHA256), made[name]))
    assert file.stat().st_size < 160_000
    command = [sys.executable, "-c", CHILD, str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    mib, _, said = done.stdout.partition(" ")
    assert int(mib) < 128, done.stdout
    assert "at most" in said or "more than" in said or "never is" in said, said


def test_a_whole_archive_is_proven_without_keeping_it(tmp_path: Path) -> None:
    """Modules that shrink to a tenth are read within every bound, and memory does not grow with their content."""
    words = (b"mov.b32 ", b"add.s64 ", b"ld.global ", b"st.shared ")
    block = b"".join(random.Random(1).choices(words, k=1 << 19))
    contents = [Content("flashinfer_module", f"m{n}/m{n}.so", block * 16 + bytes([n])) for n in range(3)]
    rows = [encode(content) for content in contents]
    assert all(entry.codec == "zstd" and entry.content_size > 60 * MIB for entry, _ in rows)
    file = tmp_path / "whole.rwa"
    file.write_bytes(archive_bytes(Place("0.7.2", "90a", KEY_SHA256), artifact_of(*[(e, bytes(d)) for e, d in rows])))
    code = CHILD.replace("said = [", "said = artifact and [").replace("artifact.contents(kind)", "kind")
    command = [sys.executable, "-c", code, str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    mib, _, said = done.stdout.partition(" ")
    assert said.startswith("["), said
    assert int(mib) < 128, done.stdout


@pytest.mark.parametrize("kind", sorted(LIMITS))
def test_every_kind_has_a_bound_of_its_own(kind: Kind) -> None:
    """One byte more than the limit is refused by what the manifest declares, with nothing inflated."""
    size = LIMITS[kind] + 1
    entry = BlobEntry(kind, "a", 10, sha256(b"x" * 10), "none", size, "0" * 64)
    with pytest.raises(CorruptArtifactError, match=f"{kind}/a has {size} bytes, at most {LIMITS[kind]} of its kind"):
        decode(entry, b"x" * 10)
    assert (oversize(kind, "a", size - 1), oversize(kind, "a", size)) == (
        None,
        f"{kind}/a has {size} bytes, at most {LIMITS[kind]} of its kind are read",
    )


def test_what_is_packed_is_always_read() -> None:
    """Content that shrinks more than is believed is stored as it is; a little of it may shrink as it likes."""
    entry, data = encode(Content("triton_cache", "k/a", bytes(4 * MIB)))
    assert (entry.codec, decode(entry, data)) == ("none", bytes(4 * MIB))
    entry, data = encode(Content("triton_cache", "k/a", bytes(FREE_BYTES)))
    assert (entry.codec, decode(entry, data)) == ("zstd", bytes(FREE_BYTES))
    artifact = artifact_of((entry, bytes(data)))
    assert verify(artifact.manifest, artifact.blobs).contents("triton_cache")[0].data == bytes(FREE_BYTES)
    assert compressed("timings", b"a" * 100) is None
    assert MAX_RATIO > 10


def test_a_frame_with_a_large_window_is_refused() -> None:
    """The memory of a decompressor is bounded, too."""
    content = random.Random(2).randbytes(40 * MIB)
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    data = compressor.compress(content) + compressor.flush()
    entry = BlobEntry("flashinfer_module", "a/a.so", len(data), sha256(data), "zstd", len(content), sha256(content))
    with pytest.raises(CorruptArtifactError, match="not a zstd frame of ours"):
        decode(entry, data)


def test_too_large_a_content_is_not_packed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is refused by name, and a rank that collects one goes on without its kind, and says so."""
    monkeypatch.setitem(LIMITS, "triton_cache", 5)
    with pytest.raises(RejectedArtifactError, match="k/a has 6 bytes, at most 5 of its kind"):
        encode(Content("triton_cache", "k/a", b"123456"))
    cache = tmp_path / ".triton" / "cache" / "KEY"
    cache.mkdir(parents=True)
    (cache / "k.cubin").write_bytes(b"123456")
    fingerprint = {"driver": "", "arch": "cpu", "cuda_version": ""}
    part = NodeKernelCaches(fingerprint, tmp_path / "store", tmp_path, {"HOME": str(tmp_path)})
    contents, warnings = part.collect({}, None, ["KEY"])
    assert contents == ()
    assert [warning for warning in warnings if "at most 5 of its kind" in warning]


def test_the_same_bounds_hold_for_what_arrives_from_another_process(made: dict[str, Artifact]) -> None:
    """`verify` is what ranks call."""
    for name in NAMES:
        with pytest.raises(CorruptArtifactError):
            verify(made[name].manifest, made[name].blobs)
    assert verify(make_artifact().manifest, make_artifact().blobs).table is not None
