"""The hub's cache of a node that has no model."""

from __future__ import annotations


def try_to_load_from_cache(repo_id: str, filename: str, revision: str | None = None) -> None:
    """Find nothing."""
