"""Starts engines on the GPUs of a replica's bundles: an actor holds them for that long, the engine is a child process.

A child inherits no placement group, so it is told its GPUs through CUDA_VISIBLE_DEVICES. The holders belong to the
launcher: Ray ends them with it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ray_warmup.actors.cluster.remote_errors import reason_of_death
from ray_warmup.warmup.device.host_facts import busy_gpus
from ray_warmup.warmup.engines.start.child_process import ChildProcess, ChildStarter
from ray_warmup.warmup.errors import EngineError

HELD_WITHIN_S = 60.0
FREE_WITHIN_S = 20.0


class GpuHolder:
    """Actor that holds the GPUs of one bundle."""

    def gpu_ids(self) -> list[str]:
        """Return the ids of the held GPUs on this node."""
        return [str(gpu) for gpu in ray.get_runtime_context().get_accelerator_ids().get("GPU", [])]


class HeldProcess:
    """A child process and the actors that hold its GPUs."""

    def __init__(self, child: ChildProcess, holders: Sequence[ray.actor.ActorHandle]) -> None:
        self._child = child
        self._holders = holders

    def poll(self) -> int | None:
        """Return the exit code, or None while the child runs."""
        return self._child.poll()

    def kill(self) -> None:
        """End the child and all that it started, then give the GPUs back."""
        self._child.kill()
        release(self._holders)


class BundleStarter:
    """Starts engines as child processes on the GPUs of some bundles of this actor's placement group."""

    arguments: Mapping[str, str] = {}

    def __init__(
        self,
        bundles: Sequence[int],
        gpus_per_bundle: float,
        memory_share: float,
        busy: Callable[[Sequence[str], float], list[str]] = busy_gpus,
    ) -> None:
        """Keep the arguments.

        Args:
            bundles: in the order of the engine's ranks.
            gpus_per_bundle: GPUs of one bundle.
            memory_share: part of a GPU's memory that the engine will take.
            busy: names the GPUs that others use.
        """
        self._busy = busy
        self._bundles = bundles
        self._gpus = gpus_per_bundle
        self._memory_share = memory_share

    def start(self, module: str, request: Path, result: Path, environ: Mapping[str, str], log: Path) -> HeldProcess:
        """Start one engine. Raises EngineError if a GPU cannot be had or is busy."""
        holders = [self._holder(bundle) for bundle in self._bundles]
        try:
            ids = [gpu for held in self._ids(holders) for gpu in held]
            self._wait_until_free(ids)
            visible = {"CUDA_VISIBLE_DEVICES": ",".join(ids)}
            return HeldProcess(ChildStarter().start(module, request, result, {**environ, **visible}, log), holders)
        except BaseException:
            release(holders)
            raise

    def _wait_until_free(self, ids: Sequence[str]) -> None:
        """Wait a moment for the memory of an engine that has just ended. Raises EngineError for a busy GPU."""
        deadline = time.monotonic() + FREE_WITHIN_S
        while busy := self._busy(ids, self._memory_share):
            if time.monotonic() > deadline:
                raise EngineError(f"{'; '.join(busy)}: end what runs there, or give other nodes")
            time.sleep(0.5)

    def _holder(self, bundle: int) -> ray.actor.ActorHandle:
        group = ray.util.get_current_placement_group()
        if group is None:
            raise EngineError("this process is in no placement group, so the engine would get no GPUs")
        where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
        remote = ray.remote(GpuHolder).options(num_cpus=0, num_gpus=self._gpus, scheduling_strategy=where)
        holder: ray.actor.ActorHandle = remote.remote()
        return holder

    def _ids(self, holders: Sequence[ray.actor.ActorHandle]) -> list[list[str]]:
        try:
            ids: list[list[str]] = ray.get([holder.gpu_ids.remote() for holder in holders], timeout=HELD_WITHIN_S)
        except ray.exceptions.GetTimeoutError:
            raise EngineError(
                f"the GPUs of bundles {', '.join(map(str, self._bundles))} were not free within {HELD_WITHIN_S:g} s"
            ) from None
        except ray.exceptions.RayError as error:
            raise EngineError(f"a GPU of the replica could not be held: {reason_of_death(error)}") from error
        return ids


def release(holders: Sequence[ray.actor.ActorHandle]) -> None:
    """End the actors that hold GPUs."""
    for holder in holders:
        with contextlib.suppress(ray.exceptions.RayError):  # it is gone already
            ray.kill(holder)
