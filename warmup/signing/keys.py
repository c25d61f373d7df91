"""Ed25519 keys: made, read and written.

Private keys are PEM files (PKCS #8), as `openssl pkey` reads them. A public key is a PEM file too, or one word for a
configuration: `ed25519:<base64 of its 32 bytes>`. The algorithm is the `cryptography` package's, imported when used.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ray_warmup.configs.errors import ConfigError, shown
from ray_warmup.configs.modes import Modes
from ray_warmup.warmup.disk.create_once import place_file
from ray_warmup.warmup.disk.reading import read_named
from ray_warmup.warmup.disk.trust import owner_refusal
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.signing.signature import Signature, Statement

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

WORD = "ed25519:"
"""Begin of a public key that is given as one word."""
_PEM = "-----BEGIN"
_RAW_BYTES = 32
_FILE_LIMIT = 16 << 10


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies signatures."""

    raw: bytes
    """32 bytes."""

    @property
    def key_id(self) -> str:
        """First 16 hex digits of the raw key's sha256."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    @property
    def word(self) -> str:
        """The key as one word for a configuration or a variable."""
        return WORD + base64.b64encode(self.raw).decode()

    def verifies(self, statement: Statement, signature: Signature) -> bool:
        """Return True if this key's owner signed the statement."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        signed = statement.to_bytes(signature.key_id, signature.signed_at)
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(bytes.fromhex(signature.value), signed)
        except InvalidSignature:
            return False
        # An id of another key would lead readers to the wrong name.
        return signature.key_id == self.key_id


class SigningKey:
    """A key that signs. No text form of this object shows its bytes."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = _public_of(key.public_key())

    def pem(self) -> tuple[bytes, bytes]:
        """Return the private and the public key as PEM files hold them."""
        from cryptography.hazmat.primitives import serialization

        pem, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
        public = self._key.public_key()
        return (
            self._key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_password),
            public.public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo),
        )

    def sign(self, statement: Statement, signed_at: float) -> Signature:
        """Sign an artifact's facts at a time in seconds since the epoch."""
        key_id = self.public.key_id
        value = self._key.sign(statement.to_bytes(key_id, signed_at))
        return Signature(key_id, signed_at, value.hex())


def new_key() -> SigningKey:
    """Make a key from the system's random numbers."""
    require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return SigningKey(Ed25519PrivateKey.generate())


def write_pair(key: SigningKey, private: Path, public: Path) -> None:
    """Write a private key for its owner alone and a public key for everybody.

    Raises ConfigError if one of the files exists, which is never overwritten, and StoreError for the disk.
    """
    secret, shared = key.pem()
    for path, data, mode in ((private, secret, 0o600), (public, shared, 0o644)):
        # The private key first: a public one without it would be useless and trusted.
        if not place_file(path, data, modes=Modes(file=mode)):
            raise ConfigError(f"{path}: exists already; a key is never overwritten")


def read_signing_key(source: str, setting: str) -> SigningKey:
    """Read a private key from a PEM file, or from PEM text itself.

    Raises ConfigError that names the setting, never the key.
    """
    require_cryptography(setting)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    is_text = source.startswith(_PEM)
    where = "the PEM text"
    if not is_text:
        where = shown(source)
    data = source.encode() if is_text else _secret_bytes(Path(source).expanduser(), setting)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{setting}: {where}: is no unencrypted PEM private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{setting}: {where}: must be an Ed25519 key; `ray-warmup key new` makes one")
    return SigningKey(key)


def read_public_key(source: str, setting: str) -> PublicKey:
    """Read a public key from one word, or from a PEM file. Raises ConfigError that names the setting."""
    require_cryptography(setting)
    if source.startswith(WORD):
        return PublicKey(_raw(source, setting))
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    data = _named_bytes(Path(source).expanduser(), setting)
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{setting}: {shown(source)}: is no PEM public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{setting}: {shown(source)}: must be an Ed25519 key")
    return _public_of(key)


def public_half(source: str) -> PublicKey:
    """Read the public key of a PEM file of either kind, or of one word. Raises ConfigError."""
    if source.startswith(WORD):
        return read_public_key(source, "key")
    if b"PRIVATE KEY" in _named_bytes(Path(source).expanduser(), "key"):
        return read_signing_key(source, "key").public
    return read_public_key(source, "key")


def require_cryptography(setting: str = "signatures") -> None:
    """Raise ConfigError where the `cryptography` package is not installed."""
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{setting}: needs the cryptography package: pip install 'ray-warmup[signed]'") from error


def _raw(word: str, setting: str) -> bytes:
    try:
        raw = base64.b64decode(word.removeprefix(WORD), validate=True)
    except binascii.Error as error:
        raise ConfigError(f"{setting}: {shown(word)}: is not base64 behind {WORD!r}") from error
    if len(raw) != _RAW_BYTES:
        raise ConfigError(f"{setting}: {shown(word)}: holds {len(raw)} bytes, an Ed25519 key has {_RAW_BYTES}")
    return raw


def _secret_bytes(path: Path, setting: str) -> bytes:
    """Read a private key's file, unless others may read or replace it."""
    why = owner_refusal(path)
    data = _named_bytes(path, setting)
    if why is not None:
        raise ConfigError(f"{setting}: {why}")
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise ConfigError(f"{setting}: {path}: others may read it (mode {mode:04o}); chmod 600 it")
    return data


def _named_bytes(path: Path, setting: str) -> bytes:
    try:
        return read_named(path, _FILE_LIMIT)
    except WarmupError as error:
        raise ConfigError(f"{setting}: {error}") from error


def _public_of(key: Ed25519PublicKey) -> PublicKey:
    from cryptography.hazmat.primitives import serialization

    return PublicKey(key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw))
