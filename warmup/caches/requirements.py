"""Needs of compiled contents: a JSON document that travels as one of them."""

from __future__ import annotations

from collections.abc import Iterable

from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.artifact.manifest import parse_json

REQUIREMENTS = "requirements.json"
"""Path of the document among the contents of a kind."""
_LIMIT = 1 << 20


# A border: the document comes with an artifact, and who reads a field checks it.
# A border: a JSON document of a kind's own.
def required(contents: Iterable[Content]) -> dict[str, object]:
    """Return the document among these contents, or an empty one if it is missing or is no object.

    Raises CorruptArtifactError for bytes that are not JSON.
    """
    for content in contents:
        if content.path == REQUIREMENTS:
            document = parse_json(content.data, _LIMIT, f"{content.kind}/{REQUIREMENTS}")
            if isinstance(document, dict):
                return document
    return {}
