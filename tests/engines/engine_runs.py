"""Runs of the fake engine on the simulated nodes of pool `engine`, and a look at its processes."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_warmup.actors.driver.engine_run import run_engine
from ray_warmup.actors.driver.status import live_runs
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.warmup.engines.reports.report import EngineReport
from tests.testbed import Node, wait_until


def config(name: str, num_nodes: int = 2, **engine: Any) -> EngineRunConfig:
    """One replica on each engine node, in a cache root of this test."""
    arguments = {"model": f"/models/{name}", **engine.pop("args", {})}
    document = {
        "cluster": {
            "num_nodes": num_nodes,
            "ranks_per_node": 1,
            "gpus_per_rank": 0,
            "backend": "cpu",
            "node_labels": {"pool": "engine"},
        },
        "engine": {"kind": "vllm", "args": arguments, "start_deadline": 90} | engine,
        "cache": {"root": f"~/{name}"},
        "timeouts": {"placing": 60},
    }
    return EngineRunConfig.model_validate(document)


def run(request: EngineRunConfig) -> tuple[EngineReport, list[dict[str, Any]]]:
    """The report and the events of one run."""
    events: list[dict[str, Any]] = []
    return run_engine(request, on_event=events.append), events


def phases(events: list[dict[str, Any]]) -> list[str]:
    """Names of the phases in order."""
    return [event["phase"] for event in events if event["event"] == "phase"]


def engines_on(nodes: Sequence[Node]) -> list[str]:
    """Process numbers of the engine starts that run on these nodes, which are told apart by their HOME."""
    homes = {f"HOME={node.home}".encode() for node in nodes}
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"ray_warmup.warmup.engines.vllm.start" in words and homes.intersection(variables):
            found.append(pid)
    return found


def parent_of(pid: str) -> int:
    """Process that started another one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def doing(phase: str) -> str:
    """What `status` says of the launchers of runs in a phase."""
    return "; ".join(rank.task for found in live_runs() if found.phase == phase for rank in found.ranks)


def engines_in(phase: str, nodes: Sequence[Node], limit_s: float = 120.0) -> list[str]:
    """Process numbers of the engine starts on these nodes, once one runs in a phase.

    A launcher says that it starts an engine a moment before there is a process, and in PROVING after the recording's
    has ended.
    """
    found: list[str] = []

    def is_started() -> bool:
        found[:] = engines_on(nodes) if "engine" in doing(phase) else []
        return bool(found)

    assert wait_until(is_started, limit_s), f"no engine was started in {phase}"
    return found


def plant(name: str, warm: Node) -> EngineRunConfig:
    """Give a node a cache of its own with what a run for `engine-life` has left, and return that run's request."""
    if not (warm.home / "engine-life").is_dir():
        report, _ = run(config("engine-life"))
        assert report.ready, report.error or [node.problems for node in report.nodes]
    shutil.copytree(warm.home / "engine-life", warm.home / name)
    return config(name, args={"model": "/models/engine-life"})


ARGUMENTS = {"load_format": "dummy", "skip_tokenizer_init": True, "max_num_batched_tokens": 96}
"""An engine of the size that a run records: the one that the fake engine's server defaults to."""


class Serving:
    """An actor in which an engine serves, started without any run of ours."""

    def start(self, model: str, variables: dict[str, str]) -> tuple[str, list[str]]:
        """How the plugin's lookup ended, and what it said."""
        os.environ.update(variables)
        import vllm

        from ray_warmup.warmup.engines.vllm import hooks

        said: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger().addHandler(handler)
        vllm.LLM(model=model, **ARGUMENTS)
        return hooks.engine_process().lookup, said


def serving(node: Node) -> Any:
    """An actor on a node."""
    where = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
    return ray.remote(Serving).options(num_cpus=0, scheduling_strategy=where).remote()
