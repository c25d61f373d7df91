"""Manifests: deterministic bytes, and every damaged or foreign one refused by a named error."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_warmup.warmup.artifact.artifact import Content, pack
from ray_warmup.warmup.artifact.manifest import UNGUARDED, json_schema, key_difference, parse_manifest
from ray_warmup.warmup.errors import ArtifactError, CorruptArtifactError, RejectedArtifactError, UnsafeArchiveError
from tests.artifacts import KEY, ROOT, make_artifact


def changed(**changes: Any) -> bytes:
    """The sample manifest with top-level values replaced."""
    return json.dumps({**make_artifact().manifest.to_json(), **changes}).encode()


def with_blob(**changes: Any) -> bytes:
    """The sample manifest with values of its first blob replaced."""
    document = make_artifact().manifest.to_json()
    document["blobs"][0] |= changes
    return json.dumps(document).encode()


def test_bytes_round_trip_and_are_deterministic() -> None:
    """The same contents in another order give the same bytes, and parsing gives the manifest back."""
    contents = [Content("triton_cache", f"e{i}/k.cubin", bytes([i]) * 50) for i in range(4)]
    values: dict[str, Any] = {"key": KEY, "key_sha256": "0" * 64, "fingerprint": {}, "created_at": 1.0}
    guard = UNGUARDED
    one, two = (pack(c, strategy="leader", guard=guard, **values) for c in (contents, contents[::-1]))

    assert one.manifest.to_bytes() == two.manifest.to_bytes()
    assert parse_manifest(one.manifest.to_bytes()) == one.manifest


STORED = (
    b'{"schema_version": 1, "key": {"sha256": "%s", "parts": [["flashinfer", "0.7.2"], ["gpu", "H200 \xc2\xb5"]]}, '
    b'"fingerprint": [["torch", "2.13.0"]], "created_at": 1700000000.0, "generation": 3, "strategy": "leader", '
    b'"guard": {"state": "guarded", "counts": {"kept": 2, "slower": 1}}, "blobs": [{"kind": "autotune_configs", '
    b'"path": "autotune_configs.json", "size": 3, "sha256": "%s", "codec": "none", "content_size": 3, '
    b'"content_sha256": "%s"}]%s}\n'
)


@pytest.mark.parametrize(
    ("lineage", "digest"),
    [
        (
            b', "lineage": {"parent": "%s", "depth": 2}' % (b"c" * 64),
            "a8964f7e71beb004c1e7158b95c1deec0ba5c574e45980f4acb8de1f676e46a3",
        ),
        (b"", "785c12963d8d1062b1b5c410fe2294a428a529060897274412de7977fed2e7a9"),
    ],
)
def test_what_older_releases_stored_is_read_with_the_same_bytes_and_digest(lineage: bytes, digest: str) -> None:
    """A store of an earlier release stays what it was: bytes and digest of its manifests do not change."""
    data = STORED % (b"a" * 64, b"b" * 64, b"b" * 64, lineage)
    manifest = parse_manifest(data)
    assert (manifest.to_bytes(), manifest.digest) == (data, digest)
    unsorted = data.replace(b'{"kept": 2, "slower": 1}', b'{"slower": 1, "kept": 2}')
    assert parse_manifest(unsorted).digest == digest


def test_generation_is_no_part_of_the_digest() -> None:
    """Copies of one artifact in different stores have one digest; another table has another."""
    assert parse_manifest(changed(generation=7)).digest == make_artifact().digest
    assert make_artifact(2).digest != make_artifact(1).digest


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", CorruptArtifactError),
        (b"\xff\xfe", CorruptArtifactError),
        (b"[" * 100_000, CorruptArtifactError),
        (b'{"schema_version": 1, "schema_version": 1}', CorruptArtifactError),
        (changed(created_at=float("nan")), CorruptArtifactError),
        (changed(extra=1), CorruptArtifactError),
        (changed(schema_version=2), RejectedArtifactError),
        (changed(schema_version=True), RejectedArtifactError),
        (changed(schema_version=None), CorruptArtifactError),
        (changed(guard={"state": "guarded"}), CorruptArtifactError),
        (changed(lineage={}), CorruptArtifactError),
        (changed(key={"sha256": "0" * 64, "parts": [["a", "b", "c"]]}), CorruptArtifactError),
        (changed(generation=-1), CorruptArtifactError),
        (changed(guard={"state": "maybe", "counts": []}), CorruptArtifactError),
        (with_blob(path="../escape"), UnsafeArchiveError),
        (with_blob(path="/etc/passwd"), UnsafeArchiveError),
        (with_blob(path="a/./b"), UnsafeArchiveError),
        (with_blob(path="a//b"), UnsafeArchiveError),
        (with_blob(path="a\x00b"), UnsafeArchiveError),
        (with_blob(path="a\\..\\b"), UnsafeArchiveError),
        (with_blob(sha256="../" * 21 + "x"), CorruptArtifactError),
        (with_blob(sha256="0" * 64 + "\n"), CorruptArtifactError),
        (with_blob(size=1 << 40), CorruptArtifactError),
        (with_blob(kind="pickle"), CorruptArtifactError),
        (with_blob(path="other.json"), CorruptArtifactError),
    ],
)
def test_bad_manifests_are_refused(data: bytes, error: type[ArtifactError]) -> None:
    """Each kind of damage has its named error."""
    with pytest.raises(error):
        parse_manifest(data)


@pytest.mark.parametrize("paths", [("a.so", "a.so"), ("a", "a/b")])
def test_paths_that_collide_are_refused(paths: tuple[str, str]) -> None:
    """A path that occurs twice, or is a file and a directory at once, is refused."""
    contents = [Content("triton_cache", path, path.encode() + bytes([i])) for i, path in enumerate(paths)]

    with pytest.raises(UnsafeArchiveError, match=r"occurs twice|is a file"):
        make_artifact(contents=contents)


def test_differing_key_parts_are_named() -> None:
    """Only the parts that differ are named, with both values."""
    manifest = make_artifact().manifest

    assert key_difference(manifest, KEY) is None
    assert key_difference(manifest, KEY | {"driver": "590.2"}) == "driver: stored '580.1', wanted '590.2'"
    assert key_difference(manifest, KEY | {"mig": "no"}) == "mig: stored None, wanted 'no'"


def test_of_two_models_only_what_differs_is_named() -> None:
    """A part that is a JSON object is compared member by member; text that only begins like one is shown whole."""
    manifest = make_artifact(key={"model": '{"layers": 28, "heads": 16}', "mig": "[" * 10}).manifest
    wanted = {"model": '{"layers": 32, "heads": 16}', "mig": "{" * 10}
    model, mig = (key_difference(manifest, wanted) or "").split("; ")
    assert model == "model.layers: stored 28, wanted 32"
    assert mig.startswith("mig: stored '[[[")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_manifests_parse_or_raise_our_errors(data: st.DataObject) -> None:
    """Any byte-level change gives a manifest or an ArtifactError, never another exception."""
    original = make_artifact().manifest.to_bytes()
    start = data.draw(st.integers(0, len(original)))
    end = data.draw(st.integers(start, min(len(original), start + 40)))
    mutated = original[:start] + data.draw(st.binary(max_size=20)) + original[end:]
    try:
        parsed = parse_manifest(mutated)
    except ArtifactError:
        return

    assert parse_manifest(parsed.to_bytes()) == parsed


def test_committed_schema_is_the_one_that_is_checked() -> None:
    """The schema file is what the models generate, and a JSON schema validator accepts a manifest by it."""
    committed = json.loads((ROOT / "warmup/schemas/manifest.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(committed)

    assert committed == json_schema()
    assert list(validator.iter_errors(make_artifact().manifest.to_json())) == []
    assert list(validator.iter_errors(json.loads(with_blob(size=-1)))) != []
