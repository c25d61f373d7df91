"""Leases: of all processes that want one key, exactly one makes its artifact.

A lease is kept by a sign of life and goes to the next asker after a silence. Times are given, so that no clock decides
here. A holder that outlives the registry registers its lease again by its next sign of life.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from ray_warmup.warmup.registry.values import Asker, Lead, Wait


@dataclass(slots=True)
class _Lease:
    token: str
    holder: Asker
    began: float
    heard: float
    progress: str = ""


class LeaseBook:
    """Leases by class key."""

    def __init__(self, silence_s: float) -> None:
        """Keep leases. `silence_s`: a holder that is silent for longer loses its lease."""
        self._silence_s = silence_s
        self._leases: dict[str, _Lease] = {}
        self._listened: float | None = None

    def listen(self, now: float) -> None:
        """Note that signs of life can be heard now. To be called about every second.

        A pause of half a silence is the registry's own, as when it was stopped: nobody could be heard in it, so every
        holder that was alive before begins its silence anew.
        """
        before, self._listened = self._listened, now
        if before is None or now - before < self._silence_s / 2:
            return
        for lease in self._leases.values():
            if before - lease.heard <= self._silence_s:
                lease.heard = now

    def ask(self, key: str, asker: Asker, now: float) -> Lead | Wait:
        """Give the lease to the asker if it is free or its own, else name the holder."""
        lease = self._live(key, now)
        if lease is None:
            lease = self._leases[key] = _Lease(secrets.token_hex(8), asker, now, now)
            return Lead(lease.token)
        if lease.holder == asker:  # it asks again because an answer got lost
            lease.heard = now
            return Lead(lease.token)
        return Wait(lease.holder, now - lease.began, lease.progress)

    def beat(self, key: str, token: str, holder: Asker, progress: str, now: float) -> bool:
        """Hear from a holder. Returns False if the lease has gone to somebody else, who must not be disturbed."""
        lease = self._live(key, now)
        if lease is None:  # the registry was started anew, or the holder was silent and nobody asked since
            lease = self._leases[key] = _Lease(token, holder, now, now)
        if lease.token != token:
            return False
        lease.heard, lease.progress = now, progress
        return True

    def is_held(self, key: str, token: str, now: float) -> bool:
        """Return True if a lease is alive and still this holder's."""
        lease = self._live(key, now)
        return lease is not None and lease.token == token

    def end(self, key: str, token: str) -> None:
        """Give a lease back. One that has gone to somebody else stays there."""
        lease = self._leases.get(key)
        if lease is not None and lease.token == token:
            del self._leases[key]

    def forget_node(self, node_id: str) -> tuple[str, ...]:
        """Free the leases of a lost node, and return their keys."""
        lost = [key for key, lease in self._leases.items() if lease.holder.node_id == node_id]
        for key in lost:
            del self._leases[key]
        return tuple(lost)

    def holder(self, key: str, now: float) -> Wait | None:
        """Return who makes the artifact of a key, or None."""
        lease = self._live(key, now)
        if lease is None:
            return None
        return Wait(lease.holder, now - lease.began, lease.progress)

    def num_held(self, now: float) -> int:
        """Return the number of leases whose holders live."""
        live = [self._live(key, now) for key in self._leases]
        return len(live) - live.count(None)

    def keys(self) -> tuple[str, ...]:
        """Keys with a lease, expired ones included."""
        return tuple(self._leases)

    def _live(self, key: str, now: float) -> _Lease | None:
        lease = self._leases.get(key)
        if lease is None or now - lease.heard > self._silence_s:
            return None
        return lease
