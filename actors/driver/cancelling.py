"""End a live run from any machine that reaches its cluster, as Ctrl-C at its own command would."""

from __future__ import annotations

import getpass
import socket
import time
from dataclasses import dataclass

import ray

from ray_warmup.actors.connection.addresses import NAMESPACE
from ray_warmup.actors.driver.coordinator_actor import give_back
from ray_warmup.actors.driver.status import live_runs
from ray_warmup.actors.errors import ClusterError
from ray_warmup.actors.run.status import RunStatus

ASK_S = 10.0
PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A run that was told to end."""

    run_id: str
    has_ended: bool
    """False if it was still giving back what it holds when the time was over."""
    seconds: float
    was_killed: bool = False


def cancel_run(run: str, timeout_s: float, *, by_force: bool = False) -> Cancelled:
    """Tell a live run to end, and wait until it has.

    The driver of the run gets a report that names who cancelled it. Must be connected to the cluster.

    Args:
        run: beginning of the run's id.
        timeout_s: seconds until the run must have ended.
        by_force: kill the coordinator of a run that has not ended by then. Its processes end with it.

    Raises:
        ClusterError: no live run, or several, have such an id.
    """
    problems: list[str] = []
    found = _the_one(run, live_runs(problems), problems)
    began = time.monotonic()
    try:
        coordinator = ray.get_actor(found.actor, namespace=NAMESPACE)
        ray.get(coordinator.stop.remote(f"cancelled by {_who()} (ray-warmup cancel)"), timeout=ASK_S)
        ray.wait([coordinator.wait.remote()], timeout=timeout_s)
    except (ValueError, ray.exceptions.RayActorError):
        return Cancelled(found.run_id, True, time.monotonic() - began)  # it has just ended by itself
    except ray.exceptions.GetTimeoutError:
        pass  # a coordinator that stands still is waited for below, and then killed if that was asked for
    has_ended = _is_gone(found.actor, began + timeout_s)
    if not has_ended and by_force:
        give_back(ray.get_actor(found.actor, namespace=NAMESPACE), found.run_id)
        has_ended = _is_gone(found.actor, time.monotonic() + ASK_S)
        return Cancelled(found.run_id, has_ended, time.monotonic() - began, was_killed=True)
    return Cancelled(found.run_id, has_ended, time.monotonic() - began)


def _is_gone(actor: str, deadline: float) -> bool:
    """Wait until a coordinator's name is free: its driver has the report, and everything is given back."""
    while True:
        try:
            ray.get_actor(actor, namespace=NAMESPACE)
        except ValueError:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(PAUSE_S)


def _the_one(run: str, live: list[RunStatus], problems: list[str]) -> RunStatus:
    named = [status for status in live if run in (status.run_id, status.actor)]
    found = named or [status for status in live if status.run_id.startswith(run)]
    if len(found) == 1:
        return found[0]
    ids = ", ".join(status.run_id for status in (found or live))
    silent = "".join(f"; {problem}" for problem in problems)
    if found:
        raise ClusterError(f"{run}: is the beginning of {len(found)} live runs: {ids}; give more of it")
    there = f"live runs: {ids}"
    if not live:
        there = "no run is live in this cluster"
    raise ClusterError(f"{run}: no live run has this id; {there}{silent}")


def _who() -> str:
    try:
        return f"{getpass.getuser()} on {socket.gethostname()}"
    except (KeyError, OSError):  # a user without a name
        return f"a user on {socket.gethostname()}"
