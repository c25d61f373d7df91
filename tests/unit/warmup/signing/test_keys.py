"""Keys: files, words, modes, and what is refused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from ray_warmup.configs.errors import ConfigError
from ray_warmup.warmup.signing.keys import (
    SigningKey,
    new_key,
    public_half,
    read_public_key,
    read_signing_key,
    write_pair,
)
from ray_warmup.warmup.signing.signature import Signature, Statement

STATEMENT = Statement("a" * 64, "b" * 64, 3, 1000.0)


def test_every_form_of_a_key_verifies_the_same_signature(key: SigningKey, tmp_path: Path) -> None:
    """The word, the PEM file and the PEM text are one key."""
    text = (tmp_path / "signer.key").read_text()
    for signer in (key, read_signing_key(str(tmp_path / "signer.key"), "k"), read_signing_key(text, "k")):
        signature = signer.sign(STATEMENT, 5.0)
        for source in (key.public.word, str(tmp_path / "signer.pub")):
            assert read_public_key(source, "k").verifies(STATEMENT, signature)
    assert public_half(str(tmp_path / "signer.key")) == key.public == public_half(str(tmp_path / "signer.pub"))


@pytest.mark.parametrize(
    "other",
    [
        Statement("c" * 64, "b" * 64, 3, 1000.0),
        Statement("a" * 64, "c" * 64, 3, 1000.0),
        Statement("a" * 64, "b" * 64, 4, 1000.0),
        Statement("a" * 64, "b" * 64, 3, 1000.5),
    ],
)
def test_a_signature_covers_every_fact(key: SigningKey, other: Statement) -> None:
    """Digest, class key, depth and time each change the signed bytes."""
    assert not key.public.verifies(other, key.sign(STATEMENT, 5.0))


def test_a_signature_covers_its_own_time_and_key(key: SigningKey) -> None:
    """Who changes the time or the name of the key makes the signature worthless."""
    made = key.sign(STATEMENT, 5.0)
    assert key.public.verifies(STATEMENT, made)
    assert not key.public.verifies(STATEMENT, Signature(made.key_id, 6.0, made.value))
    assert not key.public.verifies(STATEMENT, Signature("0" * 16, 5.0, made.value))
    assert not new_key().public.verifies(STATEMENT, made)


def test_the_private_file_is_the_owners_and_never_overwritten(key: SigningKey, tmp_path: Path) -> None:
    """Mode 0600, and a second pair of the same name is refused with both files unchanged."""
    private = tmp_path / "signer.key"
    assert private.stat().st_mode & 0o777 == 0o600
    before = private.read_bytes()
    with pytest.raises(ConfigError, match=r"signer\.key: exists already"):
        write_pair(new_key(), private, tmp_path / "other.pub")
    assert private.read_bytes() == before
    assert not (tmp_path / "other.pub").exists()


def test_a_private_key_that_others_may_read_is_refused(key: SigningKey, tmp_path: Path) -> None:
    """The message names the setting, the file and the remedy."""
    (tmp_path / "signer.key").chmod(0o640)
    with pytest.raises(ConfigError, match=r"cache\.signing_key: .*signer\.key.*chmod 600"):
        read_signing_key(str(tmp_path / "signer.key"), "cache.signing_key")


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("ed25519:AAAA", "holds 3 bytes, an Ed25519 key has 32"),
        ("ed25519:!!", "is not base64"),
        ("/nonexistent.pub", "No such file"),
    ],
)
def test_a_wrong_public_key_is_named_with_the_rule(source: str, rule: str) -> None:
    """Setting, value and rule."""
    with pytest.raises(ConfigError, match=rf"cache\.public_keys: .*{rule}"):
        read_public_key(source, "cache.public_keys")


def test_keys_of_another_algorithm_are_refused(tmp_path: Path) -> None:
    """An RSA key is no Ed25519 key."""
    rsa = generate_private_key(public_exponent=65537, key_size=2048)
    private, public = tmp_path / "rsa.key", tmp_path / "rsa.pub"
    pem = serialization.Encoding.PEM
    private.write_bytes(rsa.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    private.chmod(0o600)
    public.write_bytes(rsa.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ConfigError, match="must be an Ed25519 key"):
        read_signing_key(str(private), "k")
    with pytest.raises(ConfigError, match="must be an Ed25519 key"):
        read_public_key(str(public), "k")


def test_an_error_never_shows_the_private_key(tmp_path: Path) -> None:
    """PEM text in a variable is a secret even when it is damaged."""
    with pytest.raises(ConfigError) as caught:
        read_signing_key("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----", "RAY_WARMUP_SIGNING_KEY")
    assert "c2VjcmV0" not in str(caught.value)


@pytest.mark.skipif(not os.path.exists("/usr/bin/openssl"), reason="openssl is not installed")
def test_openssl_reads_both_files(key: SigningKey, tmp_path: Path) -> None:
    """The files are the standard's, not ours."""
    private = subprocess.run(
        ["openssl", "pkey", "-in", str(tmp_path / "signer.key"), "-pubout"], capture_output=True, check=True
    )
    assert private.stdout == (tmp_path / "signer.pub").read_bytes()
