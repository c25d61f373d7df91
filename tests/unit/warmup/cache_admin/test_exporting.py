"""Exports of a store: what lies in one depends on the artifact alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_warmup.warmup.artifact.manifest import key_digest
from ray_warmup.warmup.cache_admin.exporting import export_store
from ray_warmup.warmup.cache_admin.store_changes import import_archive
from ray_warmup.warmup.engines.artifacts.engine_store import store_directory
from ray_warmup.warmup.store.node_store import NodeStore
from tests.artifacts import KEY_SHA256, make_artifact
from tests.layouts import files_of, manifest_of

MADE_FOR = {"flashinfer_version": "0.7.2", "arch": "90a"}


@pytest.fixture
def store(tmp_path: Path) -> NodeStore:
    """A store with two generations."""
    made = NodeStore(tmp_path / "here/flashinfer_autotune_cache/0.7.2/90a" / KEY_SHA256)
    for number in (1, 2):
        made.publish(make_artifact(number, fingerprint=MADE_FOR))
    return made


@pytest.mark.parametrize("oci", [False, True])
def test_two_stores_export_the_same_bytes(store: NodeStore, tmp_path: Path, oci: bool) -> None:
    """One artifact, under another number in another store: neither the file nor the OCI image layout differs."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    export_store(store.directory, tmp_path / "one/export", oci=oci)
    published = import_archive(tmp_path / "one/export", tmp_path / "there")
    assert (published.generation, store.current()[0].generation) == (1, 2)
    export_store(published.path.parent, tmp_path / "two/export", oci=oci)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_a_registry_shows_what_an_export_is(store: NodeStore, tmp_path: Path) -> None:
    """When it was made, for which FlashInfer and architecture, and which artifact it is."""
    export_store(store.directory, tmp_path / "layout", oci=True)
    assert manifest_of(tmp_path / "layout")["annotations"] == {
        "org.opencontainers.image.created": "2023-11-14T22:13:22Z",
        "org.opencontainers.image.description": f"artifact {store.current()[1].digest} of ray-warmup for "
        "FlashInfer 0.7.2, 90a",
        "org.opencontainers.image.title": f"ray-warmup {KEY_SHA256[:12]}",
    }


def test_an_engine_is_named_by_its_version(tmp_path: Path) -> None:
    """What an engine compiled says for which engine."""
    key = {"engine": "vllm", "engine_version": "0.33.0"}
    made = NodeStore(store_directory(tmp_path, "vllm", "0.33.0", key_digest(key.items())))
    made.publish(make_artifact(table=None, key=key))
    export_store(made.directory, tmp_path / "layout", oci=True)
    words = manifest_of(tmp_path / "layout")["annotations"]["org.opencontainers.image.description"]
    assert words.endswith(" of ray-warmup for vllm 0.33.0")
    assert import_archive(tmp_path / "layout", tmp_path / "other").generation == 1


@pytest.mark.parametrize("made_at", [0.0, 4e10, 1e12])
def test_any_time_of_an_artifact_can_be_exported(tmp_path: Path, made_at: float) -> None:
    """A time that no calendar has is left out."""
    made = NodeStore(tmp_path / "here/flashinfer_autotune_cache/0.7.2/90a" / KEY_SHA256)
    made.publish(make_artifact(fingerprint=MADE_FOR, created_at=made_at))
    export_store(made.directory, tmp_path / "layout", oci=True)
    created = manifest_of(tmp_path / "layout")["annotations"].get("org.opencontainers.image.created")
    assert created == ("1970-01-01T00:00:00Z" if made_at == 0.0 else None)
