"""PLACING: wait for resources, request the placement group, and check the nodes until it is placed.

    world_size        the group is requested at once, so that an autoscaler sees it
    ranks_per_node    the ranks are planned on the present nodes and pinned to them. While these lack room, a group of
                      one bundle per node is requested instead, so that an autoscaler sees what is missing.

If a pinned node is lost meanwhile, the ranks are planned again. Every ten seconds one line names what is missing. If no
node can join, a request that does not fit is refused at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import ray

from ray_warmup.actors.cluster import membership
from ray_warmup.actors.cluster.membership import Node, ids_of
from ray_warmup.actors.errors import PlacementError, PlacementTimeoutError, StartupError
from ray_warmup.actors.placement import capacity
from ray_warmup.actors.placement.accelerators import check_accelerators
from ray_warmup.actors.placement.group import Placement
from ray_warmup.actors.placement.holders import SHOWN, held_on
from ray_warmup.configs.schema import ClusterSection
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.ranks import RankInfo

POLL_S = 0.5
SAY_EVERY_S = 10.0


class StoppedError(WarmupError):
    """The run was ended from outside during placement.

    The message is the reason.
    """


class NodesLostError(PlacementError):
    """Nodes that bundles were pinned to are gone."""


class Placing:
    """The way to one run's placement group, under one deadline."""

    def __init__(
        self,
        cluster: ClusterSection,
        limit_s: float,
        name: str,
        may_grow: bool,
        say: Callable[[str], None],
        stop: Callable[[], str | None],
        quantization: str | None = None,
        nodes_limit_s: float | None = None,
    ) -> None:
        """Start the deadline of PLACING.

        Args:
            cluster: what is asked.
            limit_s: the deadline, `timeouts.placing`.
            name: of the placement group.
            may_grow: nodes may still join the cluster.
            say: told a line now and then.
            stop: gives the reason to stop, once there is one.
            quantization: of a model that not every GPU can run.
            nodes_limit_s: seconds to wait for nodes that have not joined yet, `timeouts.nodes`. The deadline of PLACING
                then begins when they are there. None: it begins at once and is for both.
        """
        self._cluster = cluster
        self._quantization = quantization
        self._backend = cluster.backend_beside_gpus
        self._name = name
        self._may_grow = may_grow
        self._say = say
        self._stop = stop
        self._limit_s = limit_s
        self._nodes_limit_s = nodes_limit_s
        self._said = time.monotonic()
        self._deadline = self._said + limit_s
        self._nodes_deadline = self._said + (nodes_limit_s or limit_s)
        self._addresses: dict[str, str] = {}
        """Of every node that was seen."""

    @property
    def left_s(self) -> float:
        """Return the seconds until the deadline, at least one."""
        # At least a second, so that a start at the deadline fails by its own error and not by a limit of zero.
        return max(1.0, self._deadline - time.monotonic())

    async def place(self) -> Placement:
        """A placed group. Raises PlacementError, PlacementTimeoutError, StoppedError."""
        while True:
            placement = Placement(await self._fitting(), self._name)
            try:
                await self._placed(placement)
            except NodesLostError as lost:
                self._give_back(placement)
                self._plan_anew(lost)
                continue
            except BaseException:
                self._give_back(placement)
                raise
            return placement

    async def unless_lost(
        self, placement: Placement, start: Coroutine[Any, Any, tuple[RankInfo, ...]]
    ) -> tuple[RankInfo, ...] | None:
        """Return the result of starting the ranks.

        None if one of their nodes was lost meanwhile and time is left.
        """
        task = asyncio.ensure_future(start)
        try:
            # `wait` and not `wait_for`, which would cancel the start at each look.
            while not (await asyncio.wait({task}, timeout=POLL_S))[0]:
                self._check_stop()
                await self._check_lost(placement.nodes)
            return task.result()
        except NodesLostError as lost:
            self._plan_anew(lost)
        # A lost node often shows first as an actor that did not start.
        except StartupError:
            try:
                await self._check_lost(placement.nodes)
            except NodesLostError as lost:
                self._plan_anew(lost)
            else:
                raise
        finally:
            task.cancel()
        return None

    def _plan_anew(self, lost: NodesLostError) -> None:
        if not self._may_grow or time.monotonic() > self._deadline:
            raise lost
        self._say(f"{lost}; the ranks are planned anew")

    async def _fitting(self) -> capacity.Request:
        """A request for the nodes that there are, or, by world size, for those that may come."""
        stand_in: Placement | None = None
        try:
            while True:
                nodes = await self._nodes()
                try:
                    if self._backend == "cuda" and self._quantization is not None:
                        check_accelerators(self._cluster, self._quantization, nodes)
                    request = capacity.plan_request(self._cluster, self._backend, nodes)
                except PlacementError as short:
                    if not self._may_grow or _is_final(short):
                        raise
                    if self._cluster.ranks_per_node is None:
                        # Without a number per node the autoscaler may shape the nodes, so the wish itself is asked for.
                        return capacity.wish(self._cluster, self._backend)
                    if stand_in is None:
                        stand_in = Placement(capacity.wish(self._cluster, self._backend), f"{self._name}-room")
                        # An unplaced group is what makes Ray's autoscaler add nodes.
                        stand_in.ask()
                    await self._wait_for_room(short)
                    continue
                return request
        finally:
            if stand_in is not None:
                self._give_back(stand_in)

    async def _wait_for_room(self, short: PlacementError) -> None:
        self._check_stop()
        self._lacks_nodes()
        if time.monotonic() > self._nodes_deadline:
            raise self._out_of_time(short)
        self._tell(str(short))
        await asyncio.sleep(POLL_S)

    async def _placed(self, placement: Placement) -> None:
        """Wait until the group is placed."""
        ready = asyncio.ensure_future(_answer(placement.ask()))
        try:
            while not (await asyncio.wait({ready}, timeout=POLL_S))[0]:
                self._check_stop()
                # A bundle pinned to a lost node waits for ever, without an error from Ray.
                await self._check_lost(placement.pinned_to)
                if await self._is_too_late():
                    raise await self._too_late(placement)
                if time.monotonic() - self._said > SAY_EVERY_S:
                    self._tell(await self._missing(placement))
            ready.result()
        finally:
            ready.cancel()

    async def _is_too_late(self) -> bool:
        """Return True after the deadline for what is missing: nodes, or free resources of those that are there."""
        if self._nodes_limit_s is None:
            return time.monotonic() > self._deadline
        try:
            capacity.plan_request(self._cluster, self._backend, await self._nodes())
        except PlacementError:
            self._lacks_nodes()
            return time.monotonic() > self._nodes_deadline
        return time.monotonic() > self._deadline

    def _lacks_nodes(self) -> None:
        """Let the deadline of PLACING begin anew, where nodes have one of their own."""
        if self._nodes_limit_s is not None:
            self._deadline = time.monotonic() + self._limit_s

    def _out_of_time(self, short: PlacementError) -> PlacementError:
        limit_s, name = self._limit_s, "timeouts.placing"
        if self._nodes_limit_s is not None:
            limit_s, name = self._nodes_limit_s, "timeouts.nodes"
        return PlacementError(f"{short}; waited {limit_s:g} s for it ({name})")

    async def _too_late(self, placement: Placement) -> PlacementError:
        """Build the error of a missed deadline, which tells missing resources from occupied ones."""
        missing = await self._missing(placement)
        text = f"{placement.asked} were not placed within {self._limit_s:g} s (timeouts.placing); {missing}"
        try:
            capacity.plan_request(self._cluster, self._backend, await self._nodes())
        except PlacementError as short:
            return self._out_of_time(short)
        return PlacementTimeoutError(text)

    async def _missing(self, placement: Placement) -> str:
        """Describe the free resources of each node, the pinned nodes, and the holders of the rest."""
        nodes = await self._nodes()
        try:
            capacity.plan_request(self._cluster, self._backend, nodes)
        except PlacementError as short:
            return str(short)
        bundle = capacity.bundle_of(self._cluster, self._backend)
        usable = capacity.matching(self._cluster, nodes)
        pinned = sorted(placement.pinned_to)
        where = ""
        if pinned:
            where = f"bundles are pinned to {', '.join(map(self._named, pinned))}; "
        text = where + capacity.describe(usable, bundle)
        wanted = pinned or ids_of(usable)
        held = await asyncio.to_thread(held_on, wanted, tuple(bundle), self._name)
        for node_id, holders in held.items():
            more = ""
            if len(holders) > SHOWN:
                more = f" and {len(holders) - SHOWN} more"
            text += f"; on {self._named(node_id)} held by {', '.join(holders[:SHOWN])}{more}"
        return text

    async def _check_lost(self, expected: frozenset[str]) -> None:
        """Raise NodesLostError with the nodes that are not alive any more."""
        if not expected:
            return
        lost = sorted(expected.difference(ids_of(await self._nodes())))
        if lost:
            raise NodesLostError(f"{', '.join(map(self._named, lost))}, to which ranks were assigned, was lost")

    async def _nodes(self) -> tuple[Node, ...]:
        # The call blocks on the control service, and the actor must answer `status` meanwhile.
        nodes = await asyncio.to_thread(membership.nodes)
        # Kept after a node is gone, since the error must still name its address.
        for node in nodes:
            self._addresses[node.node_id] = node.address
        return nodes

    def _named(self, node_id: str) -> str:
        return f"node {node_id[:8]} ({self._addresses.get(node_id, 'unknown')})"

    def _check_stop(self) -> None:
        reason = self._stop()
        if reason is not None:
            raise StoppedError(reason)

    def _tell(self, text: str) -> None:
        if time.monotonic() - self._said > SAY_EVERY_S:
            self._said = time.monotonic()
            name = "timeouts.placing" if self._nodes_limit_s is None else "timeouts.nodes"
            self._say(f"waiting for room, {self._nodes_deadline - self._said:.0f} s left ({name}): {text}")

    def _give_back(self, placement: Placement) -> None:
        with contextlib.suppress(ray.exceptions.RayError):  # it goes with the job then
            placement.remove()


def _is_final(short: PlacementError) -> bool:
    """Return True if no further node could help, because every usable node has the wrong GPUs."""
    return bool(short.details.get("final"))


async def _answer(ref: Awaitable[Any]) -> None:
    await ref
