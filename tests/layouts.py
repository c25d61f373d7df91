"""Small OCI image layouts for tests, read and changed by hand: nothing here uses the project's reader but `refused`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.warmup.artifact.archive import Place, archive_bytes
from ray_warmup.warmup.artifact.layout_writing import write_layout
from ray_warmup.warmup.cache_admin.exporting import OF_EXPORT
from ray_warmup.warmup.cache_admin.store_changes import import_archive
from ray_warmup.warmup.errors import ArtifactError
from tests.artifacts import KEY_SHA256, make_artifact

EMPTY_DIGEST = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
"""Of `{}`, as the specification prints it."""


def archive(number: int = 7) -> bytes:
    """The bytes of a sample archive."""
    return archive_bytes(Place("0.7.2", "90a", KEY_SHA256), make_artifact(number))


def write(path: Path, number: int = 7) -> Path:
    """A layout of a sample archive."""
    write_layout(path, archive(number), "sample.rwa", {"org.opencontainers.image.title": "sample"}, OF_EXPORT)
    return path


def files_of(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() or path.is_symlink()
    }


def index_of(layout: Path) -> Any:
    """The index as plain JSON."""
    return json.loads((layout / "index.json").read_bytes())


def blob_of(layout: Path, descriptor: Any) -> bytes:
    """Follow a descriptor: its blob has the digest that names it, and the size."""
    algorithm, _, digits = descriptor["digest"].partition(":")
    assert algorithm == "sha256"
    data = (layout / "blobs" / algorithm / digits).read_bytes()
    assert hashlib.sha256(data).hexdigest() == digits
    assert len(data) == descriptor["size"]
    return data


def manifest_of(layout: Path) -> Any:
    """The manifest as plain JSON."""
    return json.loads(blob_of(layout, index_of(layout)["manifests"][0]))


def put_manifest(layout: Path, data: bytes) -> None:
    """Store a manifest with its right digest and name it in the index, as an attacker would."""
    digits = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256" / digits).write_bytes(data)
    index = index_of(layout)
    index["manifests"][0] |= {"digest": f"sha256:{digits}", "size": len(data)}
    (layout / "index.json").write_text(json.dumps(index))


def refused(layout: Path, words: str, kind: type[Exception] = ArtifactError) -> None:
    """An import is refused by these words and by the directory's name, and nothing is written."""
    root = layout.parent / "store"
    with pytest.raises(kind) as raised:
        import_archive(layout, root)
    assert words in str(raised.value)
    assert str(layout) in str(raised.value)
    assert not root.exists()
