"""With `cache.trust: signed` an artifact without a trusted signature is refused, wherever it comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ray_warmup.configs.errors import ConfigError
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.archive import Place, archive_bytes, unpack
from ray_warmup.warmup.artifact.artifact import Artifact, verify
from ray_warmup.warmup.artifact.manifest import Lineage, parse_manifest
from ray_warmup.warmup.cache_admin.exporting import write_export
from ray_warmup.warmup.cache_admin.signing import sign_current
from ray_warmup.warmup.cache_admin.store_changes import import_archive
from ray_warmup.warmup.cache_admin.store_inspection import list_stores
from ray_warmup.warmup.cache_admin.store_verification import verify_store
from ray_warmup.warmup.errors import CorruptArtifactError, RejectedArtifactError, StoreError
from ray_warmup.warmup.signing.keys import SigningKey, new_key
from ray_warmup.warmup.signing.policy import believe
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.table_at import read_table_at
from tests.artifacts import KEY, KEY_SHA256, make_artifact
from tests.engines import recorded

PLACE = Place("0.7.2", "sm90", KEY_SHA256)


@pytest.fixture
def store(tmp_path: Path) -> NodeStore:
    """A store that is not there yet."""
    return NodeStore(tmp_path / "cache" / KEY_SHA256)


def _demand(*keys: SigningKey, signing: Path | None = None) -> None:
    words = tuple(key.public.word for key in keys)
    believe(CacheSection(trust="signed", public_keys=words, signing_key=None if signing is None else str(signing)))


def _signed(artifact: Artifact, key: SigningKey, signed_at: float = 1000.0) -> Artifact:
    signature = key.sign(artifact.manifest.statement, signed_at)
    return Artifact(replace(artifact.manifest, signature=signature), artifact.blobs)


def test_a_signature_does_not_change_what_an_artifact_is(key: SigningKey) -> None:
    """The digest is the same, and the signature survives its text form."""
    plain = make_artifact(1)
    signed = _signed(plain, key)
    assert signed.digest == plain.digest
    assert parse_manifest(signed.manifest.to_bytes()).signature == signed.manifest.signature
    assert b"signature" not in plain.manifest.to_bytes()


def test_signed_artifacts_go_everywhere(key: SigningKey, store: NodeStore) -> None:
    """Store, lookup, load, table file, export and receive."""
    signed = _signed(make_artifact(1), key)
    _demand(key)
    store.publish(signed)
    assert store.lookup(KEY).hit
    artifact = store.read_artifact()
    assert verify(artifact.manifest, artifact.blobs).digest == signed.digest
    assert unpack(archive_bytes(PLACE, artifact))[1].manifest.signature == signed.manifest.signature


@pytest.mark.parametrize("maker", ["nobody", "stranger", "moved"])
def test_others_are_refused_everywhere(key: SigningKey, store: NodeStore, maker: str) -> None:
    """No signature, an unknown key's, or one that was made for another artifact; the message says which."""
    plain = make_artifact(1)
    foreign = {
        "nobody": plain,
        "stranger": _signed(plain, new_key()),
        "moved": Artifact(
            replace(plain.manifest, signature=_signed(make_artifact(2), key).manifest.signature), plain.blobs
        ),
    }[maker]
    rule = {"nobody": "has no signature", "stranger": "is signed by key", "moved": "does not belong to it"}[maker]
    archive = archive_bytes(PLACE, foreign)
    store.publish(foreign)
    _demand(key)
    found = store.lookup(KEY)
    assert not found.hit
    assert rule in found.reason
    for refused in (
        lambda: store.publish(foreign),
        lambda: store.read_artifact(),
        lambda: store.make_current(1),
        lambda: verify(foreign.manifest, foreign.blobs),
        lambda: unpack(archive),
        lambda: read_table_at(store.table_path),
    ):
        with pytest.raises(RejectedArtifactError, match=rule):
            refused()


def test_a_signature_survives_the_way_through_a_layout(key: SigningKey, store: NodeStore, tmp_path: Path) -> None:
    """An OCI image layout is imported where its signature counts; where it does not, nothing is written."""
    plain = make_artifact(1)
    signed = _signed(plain, key)
    _demand(key)
    store.publish(signed)
    write_export(tmp_path / "layout", archive_bytes(PLACE, store.read_artifact()), oci=True)
    published = import_archive(tmp_path / "layout", tmp_path / "other")
    stored = NodeStore(published.path.parent).current()[1]
    assert (stored.digest, stored.signature) == (signed.digest, signed.manifest.signature)
    write_export(tmp_path / "plain", archive_bytes(PLACE, plain), oci=True)
    write_export(tmp_path / "stranger", archive_bytes(PLACE, _signed(plain, new_key())), oci=True)
    for name, rule in (("plain", "has no signature"), ("stranger", "is signed by key")):
        with pytest.raises(RejectedArtifactError, match=rule):
            import_archive(tmp_path / name, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_several_keys_allow_a_rotation_and_a_removed_key_counts_no_more(key: SigningKey, store: NodeStore) -> None:
    """Old and new key together, then the new one alone."""
    new, signed = new_key(), _signed(make_artifact(1), key)
    _demand(key, new)
    store.publish(signed)
    assert store.lookup(KEY).hit
    _demand(new)
    assert key.public.key_id in store.lookup(KEY).reason


def test_an_older_signed_artifact_is_not_played_back(key: SigningKey, store: NodeStore, tmp_path: Path) -> None:
    """Its signature is good, but this user has accepted its successor; an empty store elsewhere does not forget."""
    first = _signed(make_artifact(1), key, 1000.0)
    later = make_artifact(2)
    later = Artifact(replace(later.manifest, lineage=Lineage.after(first.manifest)), later.blobs)
    later = _signed(later, key, 2000.0)
    _demand(key)
    store.publish(first)
    store.publish(later)
    other = NodeStore(tmp_path / "elsewhere" / KEY_SHA256)
    with pytest.raises(RejectedArtifactError, match=f"is older than artifact {later.digest[:12]}"):
        other.publish(first)
    believe(CacheSection())
    other.publish(first)  # whoever may write the directory can put it there
    _demand(key)
    assert "is older than" in other.lookup(KEY).reason


def test_an_operator_goes_back_by_signing_again(key: SigningKey, store: NodeStore, tmp_path: Path) -> None:
    """`cache sign --generation 1` makes the first artifact current under a new signature."""
    first, later = _signed(make_artifact(1), key, 1000.0), make_artifact(2)
    later = Artifact(replace(later.manifest, lineage=Lineage.after(first.manifest)), later.blobs)
    later = _signed(later, key, 2000.0)
    _demand(key, signing=tmp_path / "signer.key")
    store.publish(first)
    store.publish(later)
    done = sign_current(store.directory, 1, 3000.0)
    assert done.artifact == first.digest
    assert store.lookup(KEY).table == first.table
    assert store.current()[1].signature == key.sign(first.manifest.statement, 3000.0)
    with pytest.raises(RejectedArtifactError, match=f"is older than artifact {first.digest[:12]}"):
        store.publish(later)  # what was left behind does not come back, whatever its lineage


def test_an_unsigned_store_is_signed_in_place(key: SigningKey, store: NodeStore, tmp_path: Path) -> None:
    """An artifact from before the keys becomes usable; the unsigned generation stays for whoever holds it."""
    store.publish(make_artifact(1))
    _demand(key, signing=tmp_path / "signer.key")
    assert not store.lookup(KEY).hit
    assert sign_current(store.directory, None, 3000.0).key_id == key.public.key_id
    assert store.lookup(KEY).hit
    assert store.current()[0].generation == 2


def test_a_damaged_artifact_gets_no_signature(key: SigningKey, store: NodeStore, tmp_path: Path) -> None:
    """Every blob is hashed first."""
    plain = make_artifact(1)
    store.publish(plain)
    _demand(key, signing=tmp_path / "signer.key")
    blob = next(iter(plain.blobs))
    (store.directory / "blobs" / blob).write_bytes(b"other")
    with pytest.raises(CorruptArtifactError, match="does not match its digest"):
        sign_current(store.directory, None, 3000.0)
    assert store.current()[1].signature is None


def test_what_is_packed_is_signed(key: SigningKey, tmp_path: Path) -> None:
    """With a signing key every new artifact carries a signature; nobody who demands one packs without."""
    believe(CacheSection(signing_key=str(tmp_path / "signer.key")))
    assert make_artifact(1).manifest.signature is not None
    _demand(key)
    with pytest.raises(ConfigError, match="RAY_WARMUP_SIGNING_KEY"):
        make_artifact(1)
    _demand(new_key(), signing=tmp_path / "signer.key")
    with pytest.raises(ConfigError, match=r"is not in cache\.public_keys"):
        make_artifact(1)


def test_processes_without_a_config_are_told_by_variables(
    key: SigningKey, store: NodeStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The engine plugin and `ray_warmup.apply` have no config."""
    store.publish(make_artifact(1))
    monkeypatch.setenv("RAY_WARMUP_TRUST", "signed")
    monkeypatch.setenv("RAY_WARMUP_PUBLIC_KEYS", str(tmp_path / "signer.pub"))
    assert "has no signature" in store.lookup(KEY).reason
    monkeypatch.setenv("RAY_WARMUP_SIGNING_KEY", str(tmp_path / "signer.key"))
    sign_current(store.directory, None, 3000.0)
    assert store.lookup(KEY).hit
    monkeypatch.setenv("RAY_WARMUP_TRUST", "most")
    with pytest.raises(ConfigError, match="RAY_WARMUP_TRUST: 'most': must be one of any, signed"):
        store.lookup(KEY)


def test_a_table_outside_every_store_is_refused(key: SigningKey, store: NodeStore, tmp_path: Path) -> None:
    """Nobody signed a lone file."""
    store.publish(make_artifact(1))
    lone = tmp_path / "autotune_configs.json"
    lone.write_bytes(store.table_path.read_bytes())
    assert read_table_at(lone).on_disk
    _demand(key)
    with pytest.raises(StoreError, match="lies in no store, so nobody signed it"):
        read_table_at(lone)


def test_without_any_key_everything_is_refused(key: SigningKey) -> None:
    """The message says that no key is trusted; a relative path is no key."""
    signed = _signed(make_artifact(1), key)
    _demand()
    with pytest.raises(RejectedArtifactError, match="trusted keys are none"):
        verify(signed.manifest, signed.blobs)
    with pytest.raises(ValueError, match="must be ed25519:<base64>, or a path that is absolute"):
        CacheSection(public_keys=("keys/a.pub",))


def test_commands_name_what_would_be_refused(key: SigningKey, store: NodeStore, tmp_path: Path) -> None:
    """`cache verify` finds it, `cache ls` shows it; neither has a word for what is signed, or need not be."""
    store.publish(recorded.artifact())

    def told() -> tuple[tuple[str, ...], str]:
        (row,) = list_stores([store.directory])
        assert row.is_readable
        return tuple(text for text in verify_store(store.directory).problems if "signature" in text), row.problem

    said = "has no signature, and cache.trust is signed"
    assert told() == ((), "")
    _demand(key, signing=tmp_path / "signer.key")
    assert told() == ((f"generation 1 {said}",), said)
    sign_current(store.directory, None, 3000.0)
    assert told() == ((), "")
