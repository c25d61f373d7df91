"""Memory of the newest signed artifact of each key, so that an older one is not served again by whoever kept a copy.

    $XDG_STATE_HOME/ray-warmup/signed/<key sha256>.json      else below ~/.local/state

It belongs to the user and lies outside every cache, because who can write a cache could take its memory away. Where it
cannot be read or written, for example without a home directory, nothing is refused for its age.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ray_warmup.configs import env, strict_json
from ray_warmup.warmup.codec import decode, encode, message
from ray_warmup.warmup.disk.publish import publish_bytes
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.signing.signature import Signature, Statement

logger = logging.getLogger(__name__)

_LIMIT = 4096


@message
class Seen:
    """The newest artifact of one key that this user has accepted."""

    manifest_sha256: str
    depth: Annotated[int, Field(ge=0)]
    """Largest of all that were accepted."""
    signed_at: Annotated[float, Field(ge=0, le=1e12)]
    """Latest of all that were accepted."""


def playback(statement: Statement, signature: Signature) -> str | None:
    """Return the reason to take an artifact for an old one that is played back, or None."""
    seen = _read(statement.key_sha256)
    if seen is None or seen.manifest_sha256 == statement.manifest_sha256:
        return None
    if statement.depth > seen.depth or signature.signed_at > seen.signed_at:
        return None
    return (
        f"is older than artifact {seen.manifest_sha256[:12]}, which was accepted here before; to go back on purpose, "
        "run `ray-warmup cache sign` for it"
    )


def remember(statement: Statement, signature: Signature) -> None:
    """Keep an accepted artifact as the newest of its key, as far as the disk allows."""
    path = _file(statement.key_sha256)
    before = _read(statement.key_sha256)
    seen = Seen(statement.manifest_sha256, statement.depth, signature.signed_at)
    if before is not None:
        # Who went back to an artifact with fewer predecessors does not get the one that was left behind played back.
        seen = replace(seen, depth=max(seen.depth, before.depth), signed_at=max(seen.signed_at, before.signed_at))
    if path is None or before == seen:
        return
    try:
        publish_bytes(path, json.dumps(encode(seen)).encode() + b"\n")
    except WarmupError as error:
        logger.info("an older signed artifact would not be noticed here: %s", error)


def _read(key_sha256: str) -> Seen | None:
    path = _file(key_sha256)
    if path is None:
        return None
    try:
        return decode(Seen, strict_json.parse_json(read_regular(path, _LIMIT), _LIMIT))
    except FileNotFoundError:
        return None
    except (WarmupError, ValueError) as error:
        logger.warning("%s is ignored: %s -> remove it, the next accepted artifact writes it anew", path, error)
        return None


def _file(key_sha256: str) -> Path | None:
    base = env.read("XDG_STATE_HOME")
    try:
        state = Path(base) if base else Path.home() / ".local" / "state"
    except RuntimeError:  # no home directory
        return None
    return state / "ray-warmup" / "signed" / f"{key_sha256}.json"
