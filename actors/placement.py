"""The placement group of one run: asked for once, waited for with a deadline, always removed.

Actors are created only after it is placed: an actor on a group that is removed while it is pending
hangs for ever without an error.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from ray_warmup.actors.capacity import NODE_ID_LABEL, Node, Request, describe, nodes
from ray_warmup.actors.errors import PlacementTimeoutError

logger = logging.getLogger(__name__)


class Placement:
    """Owns one placement group."""

    def __init__(self, request: Request, name: str) -> None:
        self._request = request
        self._name = name
        self._group: PlacementGroup | None = None

    @property
    def group(self) -> PlacementGroup:
        """The placed group; only after `place`."""
        assert self._group is not None
        return self._group

    @property
    def num_bundles(self) -> int:
        """One per rank."""
        return len(self._request.bundles)

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of one rank."""
        return self._request.bundles[0]

    @property
    def labels(self) -> dict[str, str]:
        """What a rank asks of any node, its own node's id apart."""
        selectors = self._request.selectors
        return {} if selectors is None else {n: v for n, v in selectors[0].items() if n != NODE_ID_LABEL}

    @property
    def is_pinned(self) -> bool:
        """Whether each bundle belongs to one node: Ray does not move such a bundle when its node is lost."""
        return self._request.selectors is not None and NODE_ID_LABEL in self._request.selectors[0]

    async def place(self, timeout_s: float) -> None:
        """Ask and wait. Raises PlacementTimeoutError with what is asked and what each node has; the group is gone."""
        options: dict[str, Any] = {"strategy": self._request.strategy, "name": self._name}
        if self._request.selectors is not None:
            options["bundle_label_selector"] = list(self._request.selectors)
        self._group = placement_group(list(self._request.bundles), **options)
        try:
            await asyncio.wait_for(self._group.ready(), timeout_s)
        except (TimeoutError, ray.exceptions.GetTimeoutError):
            message = self._explain(timeout_s, nodes())
            self.remove()
            raise PlacementTimeoutError(message) from None
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Give the resources back; safe to call twice."""
        group, self._group = self._group, None
        if group is not None:
            remove_placement_group(group)

    def _explain(self, timeout_s: float, alive: tuple[Node, ...]) -> str:
        need, count = self.bundle, self.num_bundles
        asked = ", ".join(f"{amount * count:g} {name}" for name, amount in need.items())
        return (
            f"{count} ranks ({asked}, {self._request.strategy}) were not placed within {timeout_s:g} s "
            f"(timeouts.placing); {describe(alive, need)}"
        )
