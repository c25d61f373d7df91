"""Starts engines whose workers are Ray actors: vLLM's front end runs in an actor of the group that holds no GPU.

Its engine core stays in that process (`VLLM_ENABLE_V1_MULTIPROCESSING=0`), so the workers belong to the actor and end
with it. They take the GPUs of the bundles that `VLLM_RAY_BUNDLE_INDICES` names. Neither variable is in vLLM's compile
key. The actor belongs to the launcher, so Ray ends it with the launcher.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ray_warmup.actors.cluster.remote_errors import reason_of_death
from ray_warmup.actors.processes.process_actor import die_of_sigterm
from ray_warmup.configs import env
from ray_warmup.warmup.engines.front_end.trial_start import answer_in_process
from ray_warmup.warmup.errors import EngineError

GONE_S = 15.0
KILLED = -9
NOSET = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"


class EngineHost:
    """Actor in which one engine's front end runs."""

    def __init__(self, log: str) -> None:
        die_of_sigterm()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)

    def run(self, module: str, request: str, result: str) -> int:
        """Run one start to its end, and return its exit code."""
        try:
            return answer_in_process(importlib.import_module(module).run, request, result)
        except Exception:  # the border of the process: its last lines are what the launcher shows
            traceback.print_exc()
            return 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()


class HostedProcess:
    """An engine's front end in an actor."""

    def __init__(self, host: ray.actor.ActorHandle, running: ray.ObjectRef, log: Path) -> None:
        self._host = host
        self._running = running
        self._log = log
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or None while the front end runs."""
        if self._code is None and ray.wait([self._running], timeout=0)[0]:
            try:
                self._code = int(ray.get(self._running))
            except ray.exceptions.RayError as error:
                self._code = KILLED
                with self._log.open("a", encoding="utf-8") as log:
                    log.write(f"\n{reason_of_death(error)}\n")
        return self._code

    def kill(self) -> None:
        """End the actor, and with it the workers that belong to it."""
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self._host)
        deadline = time.monotonic() + GONE_S
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)


class RayStarter:
    """Starts engines with vLLM's Ray executor on some bundles of this actor's placement group."""

    arguments: Mapping[str, str] = {"distributed_executor_backend": "ray"}

    def __init__(self, bundles: Sequence[int], environment: Mapping[str, str]) -> None:
        """Keep the arguments.

        Args:
            bundles: in the order of the engine's ranks; the front end runs beside the first.
            environment: what the driver hands to every process of the run.
        """
        self._bundles = bundles
        self._environment = environment

    def start(self, module: str, request: Path, result: Path, environ: Mapping[str, str], log: Path) -> HostedProcess:
        """Start one engine. Raises EngineError."""
        group = ray.util.get_current_placement_group()
        if group is None:
            raise EngineError("this process is in no placement group, so vLLM's workers would have no GPUs")
        here = env.snapshot()
        changed = {name: value for name, value in environ.items() if here.get(name) != value}
        changed["VLLM_RAY_BUNDLE_INDICES"] = ",".join(map(str, self._bundles))
        changed["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        changed[NOSET] = "1"  # else Ray hides every GPU from an actor that holds none
        where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=self._bundles[0])
        remote = ray.remote(EngineHost).options(
            num_cpus=0,
            num_gpus=0,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=where,
            # vLLM hands the runtime environment of its process to its workers.
            runtime_env={"env_vars": {**self._environment, **changed}},
        )
        host = remote.remote(str(log))
        return HostedProcess(host, host.run.remote(module, str(request), str(result)), log)
