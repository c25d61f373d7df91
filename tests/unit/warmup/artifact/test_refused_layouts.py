"""OCI image layouts that are damaged, foreign or hostile are refused by name, and nothing is written."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_warmup.warmup.artifact.archive import read_archive
from ray_warmup.warmup.errors import (
    ArtifactError,
    CorruptArtifactError,
    RejectedArtifactError,
    StoreError,
    UnsafeArchiveError,
)
from tests.artifacts import make_artifact
from tests.layouts import EMPTY_DIGEST, files_of, index_of, manifest_of, put_manifest, refused, write

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A layout with one archive."""
    return write(tmp_path / "warm")


def change(*path: str | int, to: Any) -> Edit:
    """An edit that gives one property another value."""

    def edit(document: dict[str, Any]) -> None:
        *way, last = path
        where: Any = document
        for step in way:
            where = where[step]
        where[last] = to

    return edit


def drop(name: str) -> Edit:
    """An edit that takes a property away."""

    def edit(document: dict[str, Any]) -> None:
        del document[name]

    return edit


FIRST = ("manifests", 0)
INDEX: list[tuple[Edit, str, type[Exception]]] = [
    (change("schemaVersion", to=1), "index.json: schemaVersion is 1", RejectedArtifactError),
    (change("mediaType", to="text/plain"), "index.json: mediaType is 'text/plain'", RejectedArtifactError),
    (change("manifests", to={}), "lists no manifests", CorruptArtifactError),
    (change("manifests", to=[]), "names no manifest", RejectedArtifactError),
    (change(*FIRST, to="text"), "is no JSON object: 'text'", CorruptArtifactError),
    (change(*FIRST, "mediaType", to="application/vnd.oci.image.index.v1+json"), "image.index", RejectedArtifactError),
    (change(*FIRST, "artifactType", to="application/x"), "artifactType is 'application/x'", RejectedArtifactError),
    (change(*FIRST, "digest", to="sha256:" + "0" * 64), f"has no blobs/sha256/{'0' * 64}", CorruptArtifactError),
    (change(*FIRST, "digest", to="sha256:../../../etc/passwd"), "64 hex digits", UnsafeArchiveError),
    (change(*FIRST, "digest", to="sha256:" + "AB" * 32), "64 hex digits", UnsafeArchiveError),
    (change(*FIRST, "digest", to="sha512:" + "0" * 128), "64 hex digits", UnsafeArchiveError),
    (change(*FIRST, "digest", to=7), "digest 7 is not", UnsafeArchiveError),
    (change(*FIRST, "size", to=3), "at most 3 are read", CorruptArtifactError),
    (change(*FIRST, "size", to=4000), "instead of 4000", CorruptArtifactError),
    (change(*FIRST, "size", to=1 << 50), "at most 4194304 are read", CorruptArtifactError),
    (change(*FIRST, "size", to=-1), "size -1 is no number of bytes", CorruptArtifactError),
    (change(*FIRST, "size", to=True), "size True is no number of bytes", CorruptArtifactError),
]
MANIFEST: list[tuple[Edit, str, type[Exception]]] = [
    (change("schemaVersion", to=1), "the manifest: schemaVersion is 1", RejectedArtifactError),
    (drop("mediaType"), "the manifest has no mediaType, only", RejectedArtifactError),
    (drop("artifactType"), "the manifest has no artifactType, only", RejectedArtifactError),
    (change("artifactType", to="application/vnd.cncf.helm.config.v1+json"), "helm", RejectedArtifactError),
    (drop("config"), "config is no JSON object: None", CorruptArtifactError),
    (change("config", "mediaType", to="application/vnd.oci.image.config.v1+json"), "config.v1", RejectedArtifactError),
    (change("config", "digest", to="sha256:" + "1" * 64), f"has no blobs/sha256/{'1' * 64}", CorruptArtifactError),
    (change("config", "size", to=1), "at most 1 are read", CorruptArtifactError),
    (change("config", "size", to=3), "said to have 3 bytes, at most 2", CorruptArtifactError),
    (drop("layers"), "layers are not one archive", RejectedArtifactError),
    (change("layers", to=[]), "layers are not one archive", RejectedArtifactError),
    (lambda document: document["layers"].append(document["layers"][0]), "not one archive", RejectedArtifactError),
    (change("layers", 0, "mediaType", to="application/vnd.oci.image.layer.v1.tar"), "layer.v1", RejectedArtifactError),
    (change("layers", 0, "digest", to="sha256:../x"), "64 hex digits", UnsafeArchiveError),
    (change("layers", 0, "digest", to=EMPTY_DIGEST), "has 2 bytes instead of", CorruptArtifactError),
    (change("layers", 0, "size", to=1), "at most 1 are read", CorruptArtifactError),
    (change("layers", 0, "size", to=1 << 62), "said to have", CorruptArtifactError),
    (change("layers", 0, "size", to=1.5), "size 1.5 is no number of bytes", CorruptArtifactError),
]


@pytest.mark.parametrize(("edit", "words", "kind"), INDEX)
def test_a_changed_index_is_refused(layout: Path, edit: Edit, words: str, kind: type[Exception]) -> None:
    """Each property that is read, changed once."""
    index = index_of(layout)
    edit(index)
    (layout / "index.json").write_text(json.dumps(index))
    refused(layout, words, kind)


@pytest.mark.parametrize(("edit", "words", "kind"), MANIFEST)
def test_a_changed_manifest_is_refused(layout: Path, edit: Edit, words: str, kind: type[Exception]) -> None:
    """Each property that is read, changed once, under a right digest."""
    manifest = manifest_of(layout)
    edit(manifest)
    put_manifest(layout, json.dumps(manifest).encode())
    refused(layout, words, kind)


def test_two_manifests_are_refused(layout: Path) -> None:
    """Nobody guesses which one is meant."""
    index = index_of(layout)
    other = copy.deepcopy(index["manifests"][0])
    other["digest"] = EMPTY_DIGEST
    index["manifests"].append(other)
    (layout / "index.json").write_text(json.dumps(index))
    refused(layout, "names 2 manifests", RejectedArtifactError)


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"imageLayoutVersion": "2.0.0"}', b'{"a": 1, "a": 2}', b"\xff"]
)
def test_other_documents_are_refused(layout: Path, name: str, content: bytes) -> None:
    """No JSON, no object, another version, a name twice, no text."""
    (layout / name).write_bytes(content)
    refused(layout, name)


def test_each_file_that_is_missing_is_named(layout: Path) -> None:
    """Of a copy that was broken off."""
    for name in files_of(layout):
        data = (layout / name).read_bytes()
        (layout / name).unlink()
        refused(layout, f"this directory has no {name}", CorruptArtifactError)
        (layout / name).write_bytes(data)
    shutil.rmtree(layout / "blobs")
    refused(layout, "this directory has no blobs/sha256/", CorruptArtifactError)


def test_each_blob_that_was_changed_is_named(layout: Path) -> None:
    """One bit, the size kept."""
    for name, data in files_of(layout / "blobs").items():
        (layout / "blobs" / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        refused(layout, f"blobs/{name} does not match its digest", CorruptArtifactError)
        (layout / "blobs" / name).write_bytes(data)


def test_nothing_below_the_directory_may_be_a_link(layout: Path, tmp_path: Path) -> None:
    """Not a file and not a directory of blobs, even to the right bytes; the directory itself may be one."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(layout, elsewhere)
    for name in (*files_of(layout), "blobs/sha256", "blobs"):
        kept = tmp_path / "kept"
        (layout / name).rename(kept)
        (layout / name).symlink_to(elsewhere / name)
        refused(layout, f"{name} is a link", UnsafeArchiveError)
        (layout / name).unlink()
        kept.rename(layout / name)
    (tmp_path / "named").symlink_to(layout)
    assert read_archive(tmp_path / "named")[1].digest == make_artifact(7).digest


def test_a_pipe_is_not_waited_for(layout: Path) -> None:
    """What is no regular file is named at once."""
    (layout / "index.json").unlink()
    os.mkfifo(layout / "index.json")
    refused(layout, "not a regular file", StoreError)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_never_gives_another_artifact(layout: Path, data: st.DataObject) -> None:
    """Of any file: refused by name with nothing written, or the very artifact (where a tag or a title was changed)."""
    name = data.draw(st.sampled_from(sorted(files_of(layout))))
    whole = (layout / name).read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    (layout / name).write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
    try:
        found = read_archive(layout)[1].digest
    except ArtifactError:
        refused(layout, "")
    else:
        assert name == "index.json"
        assert found == make_artifact(7).digest
    finally:
        (layout / name).write_bytes(whole)
