"""Checks of what a node shares with others: signing keys and the remote store."""

from __future__ import annotations

from collections.abc import Iterator

from ray_warmup.configs.errors import ConfigError
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.doctor.finding import Finding, error, ok, warning
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.remote.location import RemoteLocation
from ray_warmup.warmup.remote.remote_store import RemoteStore
from ray_warmup.warmup.signing.keys import read_signing_key
from ray_warmup.warmup.signing.policy import believe, policy
from ray_warmup.warmup.time_limit import within


def keys(section: CacheSection) -> Iterator[Finding]:
    """Check the keys of `cache.trust: signed`."""
    try:
        believe(section)
        rule = policy()
        if rule.signing_source is not None:
            own = read_signing_key(rule.signing_source, rule.signing_setting).public
    except ConfigError as refused:
        yield error("keys", str(refused), "`ray-warmup key new` makes a pair of keys")
        return
    if not rule.requires_signature:
        yield ok("keys", "signatures are not required (cache.trust: any)")
        return
    if not rule.keys:
        yield error("keys", "cache.trust is signed and no key is trusted", "name the keys in cache.public_keys")
        return
    yield ok("keys", f"{len(rule.keys)} trusted keys: {', '.join(key.key_id for key in rule.keys)}")
    if rule.signing_source is None:
        yield warning(
            "keys", "this node has no signing key: it cannot tune", "set cache.signing_key on nodes that tune"
        )
    elif own not in rule.keys:
        yield error("keys", f"the signing key {own.key_id} is not trusted", "add its public half to cache.public_keys")


def remote(section: CacheSection) -> Iterator[Finding]:
    """Check that the remote store answers."""
    if section.remote is None:
        return
    location = RemoteLocation(section.remote, section.remote_timeout / 3)
    try:
        rows = within(section.remote_timeout, lambda: RemoteStore(location).rows())
    except (WarmupError, ConfigError, TimeoutError) as refused:
        text = str(refused) or f"{section.remote} did not answer within {section.remote_timeout:g} s"
        yield error("remote store", text, "check its URL, credentials and network from this node")
        return
    yield ok("remote store", f"{section.remote}: {len(rows)} artifacts")
