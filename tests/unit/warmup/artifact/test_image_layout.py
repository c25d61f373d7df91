"""OCI image layouts: as image-spec 1.1 describes them, whole or not there, refused by name where anything differs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.warmup.artifact import layout_writing
from ray_warmup.warmup.artifact.archive import Place, read_archive
from ray_warmup.warmup.cache_admin.store_changes import import_archive
from ray_warmup.warmup.errors import (
    StoreError,
)
from tests.artifacts import KEY_SHA256, make_artifact
from tests.layouts import EMPTY_DIGEST, archive, blob_of, files_of, index_of, manifest_of, put_manifest, write

OURS = "application/vnd.ray-warmup.artifact.v1"
ARCHIVE = "application/vnd.ray-warmup.archive.v1"


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A layout with one archive."""
    return write(tmp_path / "warm")


def test_the_layout_is_the_specification_s(layout: Path) -> None:
    """Files, media types, required properties, and the chain of digests from the index to the archive."""
    assert json.loads((layout / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = index_of(layout)
    assert index["schemaVersion"] == 2
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    (named,) = index["manifests"]
    assert named["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert named["artifactType"] == OURS
    assert named["annotations"] == {"org.opencontainers.image.ref.name": "ray-warmup"}
    manifest = manifest_of(layout)
    assert manifest["schemaVersion"] == 2
    assert manifest["mediaType"] == named["mediaType"]
    assert manifest["artifactType"] == OURS
    assert manifest["annotations"] == {"org.opencontainers.image.title": "sample"}
    assert manifest["config"] == {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": EMPTY_DIGEST,
        "size": 2,
    }
    assert blob_of(layout, manifest["config"]) == b"{}"
    (layer,) = manifest["layers"]
    assert layer["mediaType"] == ARCHIVE
    assert layer["annotations"] == {"org.opencontainers.image.title": "sample.rwa"}
    assert blob_of(layout, layer) == archive()
    assert sorted(path.name for path in layout.iterdir()) == ["blobs", "index.json", "oci-layout"]
    assert len(list((layout / "blobs/sha256").iterdir())) == 3


def test_a_layout_is_read_as_its_archive_is(layout: Path, tmp_path: Path) -> None:
    """The same place and artifact, and the same archive gives the same files."""
    place, artifact = read_archive(layout)
    assert (place, artifact.digest) == (Place("0.7.2", "90a", KEY_SHA256), make_artifact(7).digest)
    assert files_of(write(tmp_path / "again")) == files_of(layout)
    assert import_archive(layout, tmp_path / "store").generation == 1


def test_what_other_tools_add_or_leave_out_is_accepted(layout: Path) -> None:
    """Unknown properties, no artifact type in the index, several tags of one manifest, blobs that nothing names."""
    index = index_of(layout)
    (named,) = index["manifests"]
    del named["artifactType"], index["mediaType"]
    index["manifests"].append(named | {"annotations": {"org.opencontainers.image.ref.name": "v2"}, "added": 1})
    (layout / "index.json").write_text(json.dumps(index | {"annotations": {}, "added": []}, indent=4))
    put_manifest(layout, json.dumps(manifest_of(layout) | {"subject": None, "added": {"a": 1}}).encode())
    index["manifests"] = [index_of(layout)["manifests"][0]]
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "blobs/sha256" / ("0" * 64)).write_bytes(b"other")
    assert read_archive(layout)[1].digest == make_artifact(7).digest


def test_what_is_not_ours_stays_as_it_is(layout: Path, tmp_path: Path) -> None:
    """A file, a directory with anything in it, another tool's layout, and a link that leads nowhere are refused."""
    (tmp_path / "file").write_text("text")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/index.json").write_text("{}")
    index = index_of(layout)
    index["manifests"][0]["artifactType"] = "application/x"
    (layout / "index.json").write_text(json.dumps(index))
    (tmp_path / "loose").symlink_to("nowhere")
    before = files_of(layout), sorted(path.name for path in tmp_path.iterdir())
    for name in ("file", "full", "warm", "loose"):
        with pytest.raises(StoreError, match="is there already and is no layout of"):
            write(tmp_path / name)
    assert (files_of(layout), sorted(path.name for path in tmp_path.iterdir())) == before
    assert (tmp_path / "file").read_text() == "text"
    assert files_of(tmp_path / "full") == {"index.json": b"{}"}


def test_an_empty_directory_and_an_earlier_layout_are_replaced(tmp_path: Path) -> None:
    """What was made with `mktemp -d` is used; blobs of the earlier archive go."""
    (tmp_path / "made").mkdir()
    layout = write(tmp_path / "made", 1)
    write(layout, 2)
    assert files_of(layout) == files_of(write(tmp_path / "other", 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "other"]


def test_a_reader_sees_the_old_archive_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at before and after every file: a new layout is absent until it is whole, a replaced one always whole."""
    path = tmp_path / "warm"
    seen: list[str] = []
    publish = layout_writing.publish_bytes

    def look() -> None:
        seen.append("absent" if not path.exists() else read_archive(path)[1].digest)

    def looked_at(*arguments: Any, **named: Any) -> None:
        look()
        publish(*arguments, **named)
        look()

    monkeypatch.setattr(layout_writing, "publish_bytes", looked_at)
    write(path, 1)
    assert seen == ["absent"] * 10
    seen.clear()
    write(path, 2)
    old, new = make_artifact(1).digest, make_artifact(2).digest
    assert seen == [old] * 9 + [new]


@pytest.mark.parametrize("broken", range(5))
def test_a_disk_that_fails_leaves_nothing_or_the_earlier_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    """At each file: no directory is left beside, and an earlier layout is read as before."""
    publish = layout_writing.publish_bytes
    written: list[Path] = []

    def fail(path: Path, data: bytes, **named: Any) -> None:
        written.append(path)
        if len(written) == broken + 1:
            raise StoreError(f"cannot write {path}: No space left on device", path=str(path))
        publish(path, data, **named)

    earlier = write(tmp_path / "earlier", 1)
    monkeypatch.setattr(layout_writing, "publish_bytes", fail)
    with pytest.raises(StoreError, match="No space left"):
        write(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["earlier"]
    written.clear()
    with pytest.raises(StoreError, match="No space left"):
        write(earlier)
    assert read_archive(earlier)[1].digest == make_artifact(1).digest


def test_a_second_writer_of_a_new_layout_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one stays whole."""
    path = tmp_path / "warm"
    rename = os.rename

    def beaten(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "rename", rename)
        write(path, 1)
        rename(source, target)

    monkeypatch.setattr(os, "rename", beaten)
    with pytest.raises(StoreError, match=f"cannot write {path}: Directory not empty"):
        write(path, 2)
    assert read_archive(path)[1].digest == make_artifact(1).digest
    assert [found.name for found in tmp_path.iterdir()] == ["warm"]


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_carries_a_layout(layout: Path, tmp_path: Path) -> None:
    """A tool of container registries reads it, and what it writes is read here."""
    copied = tmp_path / "copied"
    command = ["skopeo", "--insecure-policy", "copy", f"oci:{layout}:ray-warmup", f"oci:{copied}:v1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert files_of(copied / "blobs") == files_of(layout / "blobs")
    assert read_archive(copied)[1].digest == make_artifact(7).digest
