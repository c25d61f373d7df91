"""`ray_warmup.attach`: actors that exist already become warm, each in its own process.

Nothing is placed and no process is started. Every actor runs what `ensure_warm` runs (`warm_joiner.py`), so of those
that lack one artifact one measures, and the others take it from the registry.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray

from ray_warmup.actors.cluster.remote_errors import as_failure, reason_of_death
from ray_warmup.actors.errors import ClusterError
from ray_warmup.actors.joining.warm_joiner import ensure_warm
from ray_warmup.configs.loader import config_of_text, text_of_config
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.device.factory import FLASHINFER_TUNER
from ray_warmup.warmup.rank.rank_workloads import checked
from ray_warmup.warmup.report import WarmupReport


def attach(
    config: WarmupConfig,
    handles: Sequence[Any],
    *,
    limit_s: float | None = None,
    wait_s: float | None = None,
    tuner: str = FLASHINFER_TUNER,
) -> tuple[WarmupReport, ...]:
    """Make actors warm that exist already, and return one report for each, in their order.

    The position of a handle is its rank, which decides its share of the model. An actor is busy until it is warm, as
    with a call of its own. One that dies, or does not end in time, has a report that is not ready and names it; the
    others are not disturbed.

    Args:
        config: what is served. Its `cluster` section decides shards and devices, not places.
        handles: of actors that own their GPUs.
        limit_s: seconds for all of it; default: what measuring and waiting may take by `timeouts`.
        wait_s: as for `ensure_warm`.
        tuner: `module:function` that makes the tuner.

    Raises:
        ClusterError: this process is not connected to Ray, or there are more actors than ranks.
        ConfigError: the configuration is wrong.
    """
    if not ray.is_initialized():
        raise ClusterError("attach needs a process that is connected to Ray: call ray.init first")
    config = checked(config)
    ranks = config.cluster.num_ranks
    if len(handles) > ranks:
        raise ClusterError(f"attach got {len(handles)} actors for {ranks} ranks (cluster.world_size): give one each")
    limit_s = _longest_s(config) if limit_s is None else limit_s
    text = text_of_config(config)
    refs = [handle.__ray_call__.remote(_become_warm, text, rank, wait_s, tuner) for rank, handle in enumerate(handles)]
    until = time.monotonic() + limit_s
    return tuple(_report_of(ref, config, rank, until, limit_s) for rank, ref in enumerate(refs))


def _become_warm(actor: object, text: str, rank: int, wait_s: float | None, tuner: str) -> str:
    """Run in the actor's process. The report travels as text, as every report does."""
    return ensure_warm(config_of_text(text), rank=rank, wait_s=wait_s, tuner=tuner).to_json()


def _report_of(ref: Any, config: WarmupConfig, rank: int, until: float, limit_s: float) -> WarmupReport:
    """Wait for one actor. Its failure is its report's error."""
    try:
        return WarmupReport.from_json(ray.get(ref, timeout=max(0.0, until - time.monotonic())))
    except ray.exceptions.GetTimeoutError:
        why = f"did not become warm within {limit_s:g} s"
    except ray.exceptions.RayTaskError as error:
        failure = as_failure(error)
        why = f"could not become warm: {failure.kind}: {failure.message}"
    except ray.exceptions.RayError as error:
        why = f"was lost: {reason_of_death(error)}"
    return WarmupReport(run_id="", config=config.model_dump(mode="json"), error=f"the actor of rank {rank} {why}")


def _longest_s(config: WarmupConfig) -> float:
    limits = config.timeouts
    measuring = limits.probing + limits.lookup + limits.compiling + limits.tuning + limits.guarding
    return limits.single_flight + measuring + limits.pushing + limits.installing + limits.loading + limits.replaying
