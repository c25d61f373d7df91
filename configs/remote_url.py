"""URL of a remote store, as a configuration gives it."""

from __future__ import annotations

import re

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://[^\s\x00-\x1f\x7f]+")


def url_fault(url: str) -> str | None:
    """Return the rule that a URL breaks, or None."""
    if _URL.fullmatch(url) is None:
        return "must be a URL as s3://bucket/prefix or file:///mnt/shared"
    if "@" in url.partition("://")[2].partition("/")[0]:
        return "must hold no credentials: give them as the protocol's own variables or files"
    return None
