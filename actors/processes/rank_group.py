"""The rank actors of one run: created on the placement group, called, replaced, killed.

The one place with `ray.remote` for ranks. Actors are never restarted by Ray: a silent restart would lose
what the rank holds; a fresh one is asked for explicitly.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from ray_warmup.actors.cluster.membership import nodes
from ray_warmup.actors.cluster.remote_errors import as_failure, lacks_package
from ray_warmup.actors.cluster.transfer import Refs
from ray_warmup.actors.errors import StartupError
from ray_warmup.actors.placement.capacity import describe
from ray_warmup.actors.placement.group import Placement
from ray_warmup.actors.processes.process_actor import ProcessActor, Work, versions
from ray_warmup.actors.processes.rank_actor import RankActor
from ray_warmup.warmup.errors import MessageError
from ray_warmup.warmup.messages.allotting import AllotTasks
from ray_warmup.warmup.messages.questions import AnyQuestion, Conclude
from ray_warmup.warmup.messages.values import Located
from ray_warmup.warmup.messages.wire import from_bytes, to_bytes
from ray_warmup.warmup.rank.crash_recorder import SIGNAL
from ray_warmup.warmup.rank.process_end import GONE, Target, see_off, stacks_of
from ray_warmup.warmup.ranks import RankInfo, assign_ranks, moved

logger = logging.getLogger(__name__)

STACKS_S = 5.0
PATIENCE_S = 3.0
"""For Ray's own kill of a process that is given up, before SIGKILL."""
SEE_OFF_S = 15.0
"""For the whole of that, with the start of a task on the node."""
GROUPS = {"control": 1, "life": 1}
BESIDE = (Conclude, AllotTasks)
"""Questions that are answered beside a phase: a rank that is busy when the run fails says so all the same, and a
launcher gives tasks away while its engine is recorded."""
MUST_AGREE = ("ray", "ray-warmup")
"""Versions on which driver and nodes must agree; another FlashInfer only makes a class of its own."""


class RankGroup:
    """Actors by rank."""

    def __init__(
        self, placement: Placement, work: Work, actor: type[ProcessActor] = RankActor, *, holds_gpus: bool = True
    ) -> None:
        """Keep the arguments.

        Args:
            placement: a placed group.
            work: for every process.
            actor: what each of them is.
            holds_gpus: each holds the GPUs of its bundle; False leaves them to what it starts.
        """
        self._actor = actor
        self._holds_gpus = holds_gpus
        self._placement = placement
        self._work = work
        self._actors: dict[int, Any] = {}
        self._outside_group: set[int] = set()
        """Ranks whose bundle was lost with its node: they hold their resources themselves."""
        self.infos: tuple[RankInfo, ...] = ()
        self._seen_off: set[asyncio.Task[None]] = set()
        """Processes that were given up, until it is certain that they are gone."""

    async def start(self, timeout_s: float, first_node: str | None) -> tuple[RankInfo, ...]:
        """Start one actor per bundle and assign ranks by location.

        Raises StartupError naming the actors that did not start.
        """
        actors = [self._create(index) for index in range(self._placement.num_bundles)]
        self._actors = dict(enumerate(actors))
        located = await self._locate(actors, timeout_s)
        self.infos = assign_ranks([found.place for found in located], first_node)
        self._actors = {info.rank: actors[info.bundle_index] for info in self.infos}
        await self._gather([self._assign(info) for info in self.infos], timeout_s)
        return self.infos

    async def ask_for_stacks(self, rank: int, crash_record: Path | None = None) -> str:
        """Make a hung process write its stacks into its record, even while native code holds the GIL.

        Returns the crash record afterwards, or nothing if there is none or the node does not answer.
        """
        info = self.infos[rank]
        # A task beside the rank and not a call to it, since a hung rank answers no call.
        said = on_node_of(info, stacks_of, target_of(info), int(SIGNAL), crash_record)
        with contextlib.suppress(TimeoutError, ray.exceptions.RayError):
            return str(await asyncio.wait_for(said, STACKS_S))
        return ""

    async def replace(self, rank: int, timeout_s: float, *, elsewhere: bool = False) -> RankInfo:
        """Start a fresh process in the rank's bundle, or on another node if its own is lost.

        Raises StartupError.
        """
        self.kill(rank)
        old = self.infos[rank]
        # A process on a lost node can be neither asked nor killed.
        if not elsewhere:
            self._see_off_later(old)
        if elsewhere and self._placement.is_pinned:
            self._outside_group.add(rank)  # any other bundle is put on another node by Ray
        actor = self._actors[rank] = self._create(
            old.bundle_index, rank if rank in self._outside_group else None, elsewhere
        )
        there = (await self._locate([actor], timeout_s))[0].place
        if self._actors.get(rank) is not actor:
            raise StartupError(f"rank {rank} has left the run while its fresh process started")
        if there.node_id == old.node_id:
            # Rank and local rank stay, because peers know the process by them.
            info = dataclasses.replace(old, gpu_ids=there.gpu_ids, pid=there.pid, started=there.started)
        else:
            info = moved(self.infos, rank, there)
        self.infos = tuple(info if known.rank == rank else known for known in self.infos)
        await self._gather([self._assign(info)], timeout_s)
        return info

    def actor(self, rank: int) -> Any:
        """The rank's actor handle."""
        return self._actors[rank]

    def call(self, rank: int, question: AnyQuestion, refs: Refs | None = None) -> Any:
        """Reference to the answer to a question, and its seconds."""
        call = self._actors[rank].call
        is_beside = isinstance(question, BESIDE)
        return (call.options(concurrency_group="control") if is_beside else call).remote(to_bytes(question), refs)

    def kill(self, rank: int) -> None:
        """End one rank's process at once."""
        actor = self._actors.get(rank)
        if actor is not None:
            ray.kill(actor)

    def release(self, rank: int) -> None:
        """The rank has left the run."""
        self.kill(rank)
        self._actors.pop(rank, None)

    async def close(self, timeout_s: float = 3.0, *, may_kill: bool = True) -> None:
        """Let live ranks tidy up, briefly, then end them all and wait until they are gone.

        Without a control service nothing can be killed (`may_kill`), and Ray ends the processes itself.
        """
        # Taken out first, so that a second close or a late command finds nothing to end.
        actors, self._actors = self._actors, {}
        tidying = {
            asyncio.ensure_future(_quietly(actor.close.remote())): rank for rank, actor in sorted(actors.items())
        }
        deaf: list[int] = []
        if tidying:
            _, late = await asyncio.wait(tidying, timeout=timeout_s)
            deaf = [tidying[task] for task in late]
        if not may_kill:
            return
        for actor in actors.values():
            with contextlib.suppress(ray.exceptions.RayError, ValueError):  # the others are ended all the same
                ray.kill(actor)
        for info in self.infos:
            if info.rank in deaf:
                self._see_off_later(info)
        # A call to a killed actor fails only once Ray knows that it is gone, which is what is waited for.
        ending = [asyncio.ensure_future(_quietly(actor.locate.remote())) for actor in actors.values()]
        if ending:
            await asyncio.wait(ending, timeout=5.0)
        if self._seen_off:
            await asyncio.wait(self._seen_off, timeout=SEE_OFF_S)

    def _see_off_later(self, info: RankInfo) -> None:
        """Ray's kill is a request to the process' raylet, which does not always end one that stands still."""
        task = asyncio.ensure_future(_see_off(info))
        self._seen_off.add(task)
        task.add_done_callback(self._seen_off.discard)

    def _create(self, bundle_index: int, homeless: int | None = None, elsewhere: bool = False) -> Any:
        bundle = self._placement.bundle
        where: dict[str, Any] = {  # a border: options of Ray's API
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self._placement.group, placement_group_bundle_index=bundle_index
            )
        }
        if homeless is not None and elsewhere:
            # Outside the group, because Ray puts no bundle of a pinned group on another node.
            where = {"label_selector": self._placement.labels}
        elif homeless is not None:
            node_id = self.infos[homeless].node_id
            where = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False)}
        remote = ray.remote(concurrency_groups=GROUPS)(self._actor).options(
            num_cpus=bundle.get("CPU", 0),
            num_gpus=bundle.get("GPU", 0) if self._holds_gpus else 0,
            # Ray's own restarts are off: the machine counts deaths and decides what a fresh process is told.
            max_restarts=0,
            max_task_retries=0,
            **where,
        )
        return remote.remote(bundle_index, self._work)

    def _assign(self, info: RankInfo) -> Any:
        return self._actors[info.rank].assign.remote(to_bytes(info))

    async def _gather(self, refs: list[Any], timeout_s: float) -> list[Any]:
        try:
            return await asyncio.wait_for(asyncio.gather(*refs), timeout_s)
        except TimeoutError:
            raise StartupError(
                f"{len(refs)} ranks did not all start within {timeout_s:g} s (timeouts.placing); "
                f"{describe(await asyncio.to_thread(nodes), self._placement.bundle)}"
            ) from None
        except ray.exceptions.RayError as error:
            advice = lacks_package(error, "a node that was to hold a rank")
            if advice is not None:
                raise StartupError(f"a rank actor did not start: {advice}") from error
            failure = as_failure(error)
            raise StartupError(
                f"a rank actor did not start: {failure.kind}: {failure.message}\n{failure.traceback}".rstrip()
            ) from error

    async def _locate(self, actors: list[Any], timeout_s: float) -> list[Located]:
        """Return the locations of actors.

        Raises StartupError, also for an actor of another version.
        """
        answers = await self._gather([actor.locate.remote() for actor in actors], timeout_s)
        located = [located_in(answer) for answer in answers]
        for found in located:
            _check_versions(found)
        return located


def target_of(info: RankInfo) -> Target:
    """A rank's process, as a signal is sent to it."""
    return Target(info.pid, info.started)


def on_node_of(info: RankInfo, work: Callable[..., Any], *arguments: Any) -> Any:
    """Reference to what a function answers on a rank's node."""
    where = NodeAffinitySchedulingStrategy(info.node_id, soft=False)
    # Without CPUs, since the ranks hold all of them and the task would wait for ever.
    remote = ray.remote(work).options(num_cpus=0, max_retries=0, scheduling_strategy=where)
    return remote.remote(*arguments)


async def _see_off(info: RankInfo) -> None:
    """Make sure, on its own node, that a process that was given up is gone."""
    try:
        said = await asyncio.wait_for(on_node_of(info, see_off, target_of(info), PATIENCE_S), SEE_OFF_S)
    except (TimeoutError, ray.exceptions.RayError) as error:
        text = "%s: whether process %d has ended is not known: %s -> look for it on that node"
        logger.warning(text, info, info.pid, type(error).__name__)
        return
    if said != GONE:
        text = "%s: process %d did not end by Ray's kill; %s after SIGKILL -> look for it on that node"
        logger.warning(text, info, info.pid, said)


def located_in(answer: bytes) -> Located:
    """Decode an actor's location.

    Raises StartupError for another version's message.
    """
    try:
        return from_bytes(answer, Located)
    except MessageError as error:
        raise StartupError(f"a rank runs another version of ray-warmup: {error}") from error


def _check_versions(found: Located) -> None:
    mine = versions()
    for name in MUST_AGREE:
        theirs = found.versions.get(name, "of no version")
        if theirs != mine[name]:
            raise StartupError(
                f"node {found.place.node_id[:8]} ({found.place.address}) has {name} {theirs}, the coordinator has "
                f"{mine[name]}; install the same version on every node"
            )


async def _quietly(ref: Any) -> None:
    """Await a reference whose failure means only that the process is gone already."""
    with contextlib.suppress(ray.exceptions.RayError):
        await ref
