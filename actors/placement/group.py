"""The placement group of one run: asked for, told what became of it, always removed. Who waits is `placing.py`.

Actors are created only after it is placed: an actor on a group that is removed while it is pending
hangs for ever without an error.
"""

from __future__ import annotations

from typing import Any

from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from ray_warmup.actors.placement.capacity import NODE_ID_LABEL, Request


class Placement:
    """Owns one placement group."""

    def __init__(self, request: Request, name: str) -> None:
        self._request = request
        self._name = name
        self._group: PlacementGroup | None = None

    @property
    def group(self) -> PlacementGroup:
        """Return the placement group.

        Call `ask` first.
        """
        assert self._group is not None
        return self._group

    @property
    def num_bundles(self) -> int:
        """Return the number of bundles, one per rank."""
        return len(self._request.bundles)

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of one rank."""
        return self._request.bundles[0]

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels that a rank requires of any node, without a node id."""
        selectors = self._request.selectors
        if selectors is None:
            return {}
        labels = dict(selectors[0])
        labels.pop(NODE_ID_LABEL, None)
        return labels

    @property
    def is_pinned(self) -> bool:
        """Return True if bundles are pinned to nodes.

        Ray does not move such a bundle after a node loss.
        """
        return self._request.selectors is not None and NODE_ID_LABEL in self._request.selectors[0]

    @property
    def pinned_to(self) -> frozenset[str]:
        """Ids of the nodes that bundles are pinned to."""
        return frozenset(row[NODE_ID_LABEL] for row in self._request.selectors or () if NODE_ID_LABEL in row)

    @property
    def nodes(self) -> frozenset[str]:
        """Ids of the nodes that the placed bundles are on."""
        places = placement_group_table(self.group)["bundles_to_node_id"].values()
        return frozenset(place for place in places if place) | self.pinned_to

    def ask(self) -> Any:
        """Request the placement group and return an awaitable for its placement."""
        selectors = self._request.selectors
        self._group = placement_group(
            list(self._request.bundles),
            strategy=self._request.strategy,
            name=self._name,
            bundle_label_selector=None if selectors is None else list(selectors),
        )
        return self._group.ready()

    def remove(self) -> None:
        """Release the resources.

        A second call does nothing.
        """
        group, self._group = self._group, None
        if group is not None:
            remove_placement_group(group)

    @property
    def asked(self) -> str:
        """Describe the requested ranks and resources."""
        need, count = self.bundle, self.num_bundles
        amounts = ", ".join(f"{amount * count:g} {name}" for name, amount in need.items())
        return f"{count} ranks ({amounts}, {self._request.strategy})"
