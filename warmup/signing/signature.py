"""A signature of an artifact, and the bytes that it covers.

Pure values. Ed25519 itself is `warmup/signing/keys.py`'s, and which signatures are believed `policy.py`'s.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, StringConstraints

from ray_warmup.warmup.codec import message

_DOMAIN = b"ray-warmup artifact 1\n"
"""Prefix of all signed bytes, so that a signature of something else never counts here."""


@message
class Signature:
    """An Ed25519 signature (RFC 8032) of a `Statement`."""

    key_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    """First 16 hex digits of the sha256 of the raw public key."""
    signed_at: Annotated[float, Field(ge=0, le=1e12)]
    """Seconds since the epoch by the signer's clock."""
    value: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
    """64 bytes in hex."""


@dataclass(frozen=True, slots=True)
class Statement:
    """Facts of an artifact that a signature covers."""

    manifest_sha256: str
    """`Manifest.digest`, which covers every blob's digest, the class key and the lineage."""
    key_sha256: str
    depth: int
    """Number of predecessors, which orders artifacts of one key."""
    created_at: float

    def to_bytes(self, key_id: str, signed_at: float) -> bytes:
        """Return the bytes to sign: canonical JSON behind a fixed prefix."""
        covered = [self.manifest_sha256, self.key_sha256, self.depth, self.created_at, key_id, signed_at]
        return _DOMAIN + json.dumps(covered, allow_nan=False).encode()
