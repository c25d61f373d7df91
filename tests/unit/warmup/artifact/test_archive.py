"""One-file archives: deterministic, whole or refused, and never able to write anywhere."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest

from ray_warmup.warmup.artifact.archive import MAGIC, Place, read_archive, unpack, unpack_known, write_archive
from ray_warmup.warmup.caches import compute_cache, triton_cache
from ray_warmup.warmup.errors import ArtifactError, CorruptArtifactError, StoreError, UnsafeArchiveError
from ray_warmup.warmup.store.node_store import NodeStore, StorePath
from tests.artifacts import KEY_SHA256, make_artifact, table_bytes

PLACE = Place("0.7.2.post1", "90a", KEY_SHA256)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a sample archive."""
    path = tmp_path_factory.mktemp("archive") / "one.rwa"
    write_archive(path, PLACE, make_artifact(7))
    return path.read_bytes()


def sealed(body: bytes) -> bytes:
    """A body with a correct digest, as an attacker would make it."""
    return body + hashlib.sha256(body).digest()


def members(*parts: bytes) -> bytes:
    """A sealed archive of these members."""
    return sealed(MAGIC + b"".join(len(part).to_bytes(8, "big") + part for part in parts))


def header(**changes: str) -> bytes:
    """An archive header with values replaced."""
    return json.dumps({"flashinfer_version": "0.7.2", "arch": "90a", "key_sha256": KEY_SHA256, **changes}).encode()


def test_round_trip_is_deterministic(archive: bytes, tmp_path: Path) -> None:
    """Writing the same artifact twice gives the same bytes, and reading gives it back."""
    size = write_archive(tmp_path / "two.rwa", PLACE, make_artifact(7))
    place, artifact = read_archive(tmp_path / "two.rwa")

    assert (tmp_path / "two.rwa").read_bytes() == archive
    assert (size, place, artifact.digest, artifact.table) == (
        len(archive),
        PLACE,
        make_artifact(7).digest,
        table_bytes(7),
    )


@pytest.mark.parametrize(
    "bad",
    [
        header(arch=".."),
        header(arch="a/b"),
        header(flashinfer_version="/etc"),
        header(flashinfer_version=".hidden"),
        header(key_sha256="../" * 20),
        header(key_sha256="AB" * 32),
    ],
)
def test_headers_cannot_lead_elsewhere(bad: bytes) -> None:
    """A header that names another place than one directory each is refused, though its digest is right."""
    with pytest.raises(UnsafeArchiveError):
        unpack(members(bad, make_artifact(7).manifest.to_bytes()))


def test_sealed_nonsense_is_refused() -> None:
    """Correct digests do not help a wrong structure: extra bytes, missing or lying members, other keys."""
    artifact = make_artifact(7)
    manifest = artifact.manifest.to_bytes()
    blobs = [bytes(artifact.blobs[sha]) for sha in sorted(artifact.blobs)]
    place = header()
    bad = [
        b"",
        b"PK\x03\x04",
        sealed(MAGIC),
        sealed(MAGIC + (1 << 60).to_bytes(8, "big")),
        members(b"[]", manifest, *blobs),
        members(header(extra="x"), manifest, *blobs),
        members(header(key_sha256="0" * 64), manifest, *blobs),
        members(place, b"{}", *blobs),
        members(place, manifest),
        members(place, manifest, *blobs[:-1]),
        members(place, manifest, *blobs, b"more"),
        members(place, manifest, *blobs[::-1]),
    ]
    for data in bad:
        with pytest.raises(CorruptArtifactError):
            unpack(data)
    assert unpack(members(place, manifest, *blobs))[1].digest == artifact.digest


def test_missing_file_and_directory_are_named(tmp_path: Path) -> None:
    """A missing file is FileNotFoundError; a directory that is no OCI image layout and a device are named."""
    with pytest.raises(FileNotFoundError):
        read_archive(tmp_path / "none")
    with pytest.raises(CorruptArtifactError, match="no whole OCI image layout"):
        read_archive(tmp_path)
    with pytest.raises(StoreError, match="regular"):
        read_archive(Path("/dev/null"))


def mutate(data: bytes, rng: random.Random, seal: bool) -> bytes:
    """One to four random changes: flips, cuts, insertions, repeats, numbers; with a right digest when `seal`."""
    body = bytearray(data[:-32] if seal else data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(body) + 1)
        span = rng.randint(0, 24)
        kind = rng.randrange(5)
        if kind == 0 and at < len(body):
            body[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del body[at : at + span]
        elif kind == 2:
            body[at:at] = rng.randbytes(span)
        elif kind == 3:
            body[at:at] = body[rng.randrange(len(body) + 1) :][:span]
        else:
            body[at : at + 8] = rng.choice([0, 1, 255, 1 << 31, (1 << 64) - 1]).to_bytes(8, "big")
    return sealed(bytes(body)) if seal else bytes(body)


def hostile_document(rng: random.Random) -> bytes:
    """A sealed archive whose manifest is valid JSON with one to three values replaced, removed or added."""
    artifact = make_artifact(7)
    document = artifact.manifest.to_json()
    places = [document, document["key"], document["guard"], *document["blobs"]]
    for _ in range(rng.randint(1, 3)):
        where = rng.choice([place for place in places if place])
        name = rng.choice(list(where))
        if rng.random() < 0.15:
            del where[name]
        elif isinstance(where[name], int | str) or rng.random() < 0.3:
            where[name] = rng.choice(HOSTILE)
    manifest = json.dumps(document).encode()
    return members(header(), manifest, *(bytes(artifact.blobs[sha]) for sha in sorted(artifact.blobs)))


HOSTILE: list[object] = [
    "../../escape", "/etc/passwd", "a/../../b", "", "x" * 5000, "\x00", "zstd", "none", "triton_cache", "timings",
    0, -1, 1, 1 << 32, 1 << 70, 1.5, None, True, [], {}, [[]], {"a": []}, "0" * 64, "autotune_configs.json", "\ud800",
]  # fmt: skip


def fuzz(archive: bytes, cases: int, seed: int, target: Path) -> dict[str, int]:
    """Unpack mutated archives and install what is accepted below `target`; counts of outcomes.

    Anything but an ArtifactError or a whole artifact is raised.
    """
    rng = random.Random(seed)
    counts: dict[str, int] = {}
    for case in range(cases):
        data = hostile_document(rng) if case % 3 == 0 else mutate(archive, rng, seal=case % 3 == 1)
        try:
            place, artifact = unpack(data)
            where = StorePath.of(target, None, place.flashinfer_version, place.arch, place.key_sha256)
            NodeStore(where).publish(artifact)
            triton_cache.install(artifact.contents("triton_cache"), target / "triton")
            compute_cache.install(artifact.contents("cuda_compute_cache"), target / "nv", "580.1")
            outcome = "accepted"
        except ArtifactError as error:
            outcome = type(error).__name__
        counts[outcome] = counts.get(outcome, 0) + 1
    return counts


@pytest.mark.parametrize("cases", [4_000, pytest.param(20_000, marks=pytest.mark.long)])
def test_mutated_archives_are_refused_by_name(
    archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: int
) -> None:
    """Thousands of mutations end in a named error or a whole artifact, and nothing is written outside the target."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bystander").write_text("untouched")
    counts = fuzz(archive, cases, seed=20, target=tmp_path / "target")

    assert sum(counts.values()) == cases
    assert counts["CorruptArtifactError"] > cases // 2
    assert counts["UnsafeArchiveError"] > cases // 400
    assert 0 < counts["accepted"] < cases // 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bystander", "target"]
    assert {path.name for path in (tmp_path / "target").iterdir()} <= {"flashinfer_autotune_cache", "triton", "nv"}


def test_a_known_artifact_is_that_one_or_refused(archive: bytes) -> None:
    """From another node, with any bit flipped: the very artifact, None, or a named error; another one is None."""
    artifact = make_artifact(7)
    assert unpack_known(archive, "0" * 64) is None
    refused = 0
    for at in range(0, len(archive), 3):
        damaged = bytearray(archive)
        damaged[at] ^= 1
        try:
            found = unpack_known(bytes(damaged), artifact.digest)
        except ArtifactError:
            refused += 1
            continue
        if found is not None:
            assert found.digest == artifact.digest
            assert {sha: bytes(data) for sha, data in found.blobs.items()} == artifact.blobs
    assert refused > len(archive) // 10
