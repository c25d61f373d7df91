"""The rule of this process for artifacts: any, or only those that a trusted key has signed.

The rule comes from `cache.trust`, `cache.public_keys` and `cache.signing_key`, and for processes without a
configuration from the variables RAY_WARMUP_TRUST, RAY_WARMUP_PUBLIC_KEYS and RAY_WARMUP_SIGNING_KEY. Either of them can
demand signatures, neither can take back what the other demands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ray_warmup.configs import env
from ray_warmup.configs.errors import ConfigError, shown
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.disk import trust
from ray_warmup.warmup.errors import RejectedArtifactError
from ray_warmup.warmup.signing import newest_seen
from ray_warmup.warmup.signing.keys import PublicKey, SigningKey, read_public_key, read_signing_key
from ray_warmup.warmup.signing.signature import Signature, Statement

TRUST_MODES = ("any", "signed")


@dataclass(frozen=True, slots=True)
class SigningPolicy:
    """The rule for artifacts of one process."""

    requires_signature: bool = False
    keys: tuple[PublicKey, ...] = ()
    """Keys whose signatures count."""
    signing_source: str | None = None
    """File of the signing key, or its PEM text. Read when something is signed, because few nodes have it."""
    signing_setting: str = "cache.signing_key"

    def refusal(self, statement: Statement, signature: Signature | None) -> str | None:
        """Return the reason to refuse an artifact, or None.

        A reason continues a sentence that begins with the artifact.
        """
        if not self.requires_signature:
            return None
        if signature is None:
            return "has no signature, and cache.trust is signed"
        for key in self.keys:
            # The id is a hint from the artifact; only the verification below proves the key.
            if key.key_id == signature.key_id:
                if key.verifies(statement, signature):
                    return None
                return "has a signature that does not belong to it"
        return f"is signed by key {signature.key_id}, trusted keys are {self._known()}"

    def sign(self, statement: Statement, signed_at: float) -> Signature | None:
        """Sign an artifact's facts, or return None where there is no signing key and none is needed.

        Raises ConfigError as `signing_key` does.
        """
        key = self.signing_key()
        return None if key is None else key.sign(statement, signed_at)

    def signing_key(self) -> SigningKey | None:
        """Read the key that signs here, or return None where there is none and none is needed.

        Raises ConfigError for a key that cannot be read, or that is needed and absent or not trusted.
        """
        if self.signing_source is None:
            if self.requires_signature:
                raise ConfigError(
                    "cache.signing_key: is not set on this node, and cache.trust is signed: name the key's file there "
                    "or in RAY_WARMUP_SIGNING_KEY"
                )
            return None
        key = read_signing_key(self.signing_source, self.signing_setting)
        if self.requires_signature and key.public not in self.keys:
            raise ConfigError(
                f"{self.signing_setting}: is key {key.public.key_id}, which is not in cache.public_keys: nobody would "
                f"accept its signatures; trusted keys are {self._known()}"
            )
        return key

    def _known(self) -> str:
        return ", ".join(key.key_id for key in self.keys) or "none"


_policy = SigningPolicy()


def believe(cache: CacheSection) -> None:
    """Trust the users, groups and keys of a configuration, and nobody else, from now on. Raises ConfigError."""
    global _policy
    trust.believe(cache)
    keys = tuple(read_public_key(source, "cache.public_keys") for source in cache.public_keys)
    _policy = SigningPolicy(cache.trust == "signed", keys, cache.signing_key)


def policy() -> SigningPolicy:
    """Return the rule of this process, the variables included. Raises ConfigError."""
    mode = env.read("RAY_WARMUP_TRUST") or TRUST_MODES[0]
    if mode not in TRUST_MODES:
        raise ConfigError(f"RAY_WARMUP_TRUST: {shown(mode)}: must be one of {', '.join(TRUST_MODES)}")
    rule = _policy
    # A variable can make the rule stricter and never weaker.
    if mode == "signed" or rule.requires_signature:
        rule = replace(rule, requires_signature=True, keys=(*rule.keys, *_keys_of_environment()))
    if rule.signing_source is None:
        name = "RAY_WARMUP_SIGNING_KEY"
        rule = replace(rule, signing_source=env.read(name), signing_setting=name)
    return rule


def refusal(statement: Statement, signature: Signature | None, *, allow_older: bool = False) -> str | None:
    """Return the reason why this process does not accept an artifact, or None.

    `allow_older` admits a signed artifact that replaces a newer one, as an operator may want.
    """
    rule = policy()
    why = rule.refusal(statement, signature)
    if why is not None or not rule.requires_signature or signature is None or allow_older:
        return why
    return newest_seen.playback(statement, signature)


def cannot_sign() -> str:
    """Return why nothing that this process packs could be signed although it must be, or an empty text."""
    try:
        policy().signing_key()
    except ConfigError as error:
        return str(error)
    return ""


def check(statement: Statement, signature: Signature | None) -> None:
    """Raise RejectedArtifactError for an artifact that this process does not accept."""
    why = refusal(statement, signature)
    if why is not None:
        digest = statement.manifest_sha256
        raise RejectedArtifactError(f"artifact {digest[:12]} {why}", artifact=digest)


def accept(statement: Statement, signature: Signature | None) -> None:
    """Remember an artifact that was checked and is served from now on, where signatures are required."""
    if signature is not None and policy().requires_signature:
        newest_seen.remember(statement, signature)


def _keys_of_environment() -> tuple[PublicKey, ...]:
    name = "RAY_WARMUP_PUBLIC_KEYS"
    sources = (env.read(name) or "").split(",")
    return tuple(read_public_key(source, name) for source in sources if source)
