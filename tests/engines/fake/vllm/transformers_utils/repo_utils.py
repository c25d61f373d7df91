"""Files of a model's repository."""

from __future__ import annotations

from pathlib import Path


def get_hf_file_bytes(file_name: str, model: str, revision: str | None = "main") -> bytes | None:
    """The content of a file of a directory; None where it has none."""
    path = Path(model) / file_name
    return path.read_bytes() if path.is_file() else None
