"""Compress contents, and inflate them within bounds on kind, ratio and memory.

A declared size is trusted only within these bounds, and all of them are checked before a byte is inflated:

| bound | value |
|---|---|
| one content | `LIMITS` of its kind |
| content of a compressed blob | `FREE_BYTES`, or `MAX_RATIO` times its stored size |
| content of all blobs that came together | `FREE_TOTAL`, or `MAX_RATIO` times their stored size |
| a frame's window | 8 MiB, each thread's |

Checking a content needs one step of memory, because the inflated bytes are hashed and not kept.
"""

from __future__ import annotations

import functools
import hashlib
import io
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from ray_warmup.warmup.artifact.manifest import BlobEntry, Kind
from ray_warmup.warmup.errors import CorruptArtifactError, RejectedArtifactError

Blob = bytes | memoryview

COMPRESSED: frozenset[str] = frozenset(
    {
        "flashinfer_module",
        "triton_cache",
        "cuda_compute_cache",
        "torch_compile",
        "inductor",
        "inductor_home",
        "deep_gemm",
    }
)
"""Kinds that are stored with zstd; tables stay readable, they are what engines open."""
LIMITS: dict[Kind, int] = {
    "autotune_configs": 16 << 20,
    "timings": 64 << 20,
    "sparse_mla": 64 << 20,
    "flashinfer_module": 512 << 20,
    "triton_cache": 64 << 20,
    "cuda_compute_cache": 256 << 20,
    "tuning_kernels": 2 << 30,
    "torch_compile": 1 << 30,
    "inductor": 256 << 20,
    "inductor_home": 256 << 20,
    "modelinfos": 1 << 20,
    "deep_gemm": 64 << 20,
    "trtllm_deep_gemm": 64 << 20,
    "sglang_jit": 256 << 20,
    "engine_record": 16 << 20,
    "recorded_requests": 16 << 20,
}
"""Bytes of one content of each kind."""
# A bomb inflates a thousandfold and more, so the bound lies far from both.
MAX_RATIO = 100
"""Machine code shrinks to a third, text to a tenth."""
FREE_BYTES = 256 << 10
FREE_TOTAL = 16 << 20
# The default of zstd: higher levels save a few percent and take several times as long.
LEVEL = 3
_WINDOW_LOG = 23
_STEP = 1 << 20


def compressed(kind: Kind, data: Blob) -> bytes | None:
    """Return the compressed data, or None if the kind, the size or the ratio's bound rules it out."""
    if kind not in COMPRESSED:
        return None
    # A content that shrinks more than receivers accept is sent as it is.
    squeezed: bytes = _zstd().compress(data, level=LEVEL)
    is_worth_it = len(squeezed) < len(data) and len(data) <= max(FREE_BYTES, MAX_RATIO * len(squeezed))
    if not is_worth_it:
        return None
    return squeezed


def oversize(kind: Kind, path: str, size: int) -> str | None:
    """Return the reason why a content is too large for an artifact, or None."""
    limit = LIMITS[kind]
    if size > limit:
        return f"{kind}/{path} has {size} bytes, at most {limit} of its kind are read"
    return None


def check_bounds(entries: Iterable[BlobEntry]) -> None:
    """Refuse what is declared of blobs that came together. Raises CorruptArtifactError, nothing was inflated."""
    sizes: dict[str, int] = {}
    content = 0
    for entry in entries:
        check_entry(entry)
        sizes[entry.sha256] = entry.size
        content += entry.content_size
    stored = sum(sizes.values())
    if content > max(FREE_TOTAL, MAX_RATIO * stored):
        raise CorruptArtifactError(
            f"{stored} bytes of blobs are said to hold {content} bytes of content, at most {MAX_RATIO} times is read"
        )


def check_entry(entry: BlobEntry) -> None:
    """Refuse what is declared of one blob. Raises CorruptArtifactError."""
    why = oversize(entry.kind, entry.path, entry.content_size)
    if why is not None:
        raise CorruptArtifactError(f"blob {why}; it was not installed", sha256=entry.sha256, path=entry.path)
    if entry.codec == "none":
        return
    if entry.kind not in COMPRESSED:
        raise corrupt(entry, "is compressed, which its kind never is")
    if entry.content_size > max(FREE_BYTES, MAX_RATIO * entry.size):
        raise corrupt(
            entry,
            f"is said to inflate from {entry.size} to {entry.content_size} bytes, at most {MAX_RATIO} times is read",
        )


def inflated(entry: BlobEntry, data: Blob) -> bytes:
    """The checked content of a compressed blob. Raises CorruptArtifactError."""
    hasher, kept = hashlib.sha256(), io.BytesIO()
    for part in _parts(entry, data):
        hasher.update(part)
        kept.write(part)
    _refuse_other(entry, kept.tell(), hasher.hexdigest())
    return kept.getvalue()


def prove(entry: BlobEntry, data: Blob) -> None:
    """Check the content of a compressed blob without keeping it. Raises CorruptArtifactError."""
    hasher, size = hashlib.sha256(), 0
    for part in _parts(entry, data):
        hasher.update(part)
        size += len(part)
    _refuse_other(entry, size, hasher.hexdigest())


def corrupt(entry: BlobEntry, what: str) -> CorruptArtifactError:
    """The error for a blob that is not what its manifest says."""
    return CorruptArtifactError(
        f"blob {entry.kind}/{entry.path} {what}; it was not installed", sha256=entry.sha256, path=entry.path
    )


def _parts(entry: BlobEntry, data: Blob) -> Iterator[bytes]:
    check_entry(entry)
    zstd = _zstd()
    # A frame may ask for a window of gigabytes before it yields a byte.
    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})
    total, chunk = 0, data
    try:
        while not decompressor.eof:
            part: bytes = decompressor.decompress(chunk, max_length=_STEP)
            # Given once: the decompressor keeps what it has not used.
            chunk = b""
            total += len(part)
            # Looked at in every step, so that a bomb is stopped after one step of memory.
            if total > entry.content_size:
                raise corrupt(entry, f"decodes to more than {entry.content_size} bytes")
            yield part
            # Without this a truncated frame would loop for ever.
            if not part and decompressor.needs_input:
                raise corrupt(entry, "is truncated")
    except zstd.ZstdError as error:
        raise corrupt(entry, f"is not a zstd frame of ours: {error}") from error
    if decompressor.unused_data:
        raise corrupt(entry, "has bytes after its zstd frame")


def _refuse_other(entry: BlobEntry, size: int, digest: str) -> None:
    if size != entry.content_size or digest != entry.content_sha256:
        raise corrupt(entry, f"decodes to {size} bytes that do not match its digest")


@functools.cache
def _zstd() -> Any:
    """The module, imported where something is compressed: an engine that only loads a table does without it."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise RejectedArtifactError(
            "compressed parts of an artifact need the package backports.zstd, which is not installed here"
        ) from error
    return zstd
