"""The child processes of `tests/bench/bench_artifact.py`: one step each, timed from imports and CUDA context on.

make     compile, tune, load, replay with nothing there; writes the artifact without the winners' driver kernels
table    load and replay with the table alone: modules are compiled on first need
join     check, install, activate, load, replay a whole artifact
follow   load and replay in a process that only has the environment of `ray-warmup env`
retune   install a whole artifact and tune every task again

FlashInfer's calls use no Triton kernel here, so each step that serves also runs two of ours (`step_kernels`).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ray_warmup.configs import env, parse_config
from ray_warmup.configs.model import load_model
from ray_warmup.warmup.artifact.archive import Place, read_archive, write_archive
from ray_warmup.warmup.artifact.artifact import Artifact, pack, table_content, verify
from ray_warmup.warmup.artifact.fingerprint import Fingerprint
from ray_warmup.warmup.artifact.manifest import UNGUARDED, key_digest
from ray_warmup.warmup.caches import tuning_kernels
from ray_warmup.warmup.caches.compiled_part import NodeKernelCaches
from ray_warmup.warmup.rank.rank_workloads import rank_workloads
from ray_warmup.warmup.store.node_store import NodeStore, StorePath
from ray_warmup.warmup.tasks import Task, Workload, tasks_of

KEY = {"bench": "artifact"}
KEY_SHA256 = key_digest(KEY.items())
DEVICE: Final = "cuda"


class Step:
    """One process: its tuner, tasks, node directory, and the seconds of each part of the step."""

    def __init__(self, request: dict[str, Any]) -> None:
        import flashinfer  # noqa: F401
        import torch

        from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner

        torch.zeros(1, device=DEVICE).sum().item()  # the context is there
        self.request = request
        self.node = Path(request["node"])
        self.seconds: dict[str, float] = {}
        self.tuner = FlashInferTuner(DEVICE)
        self.fingerprint = dict(Fingerprint.of(self.tuner.describe()).parts)
        place = (self.fingerprint["flashinfer_version"], self.fingerprint["arch"], KEY_SHA256)
        self.place = Place(*place)
        self.store = NodeStore(StorePath.of(self.node / "root", None, *place))
        environ = env.snapshot()
        base = Path(environ["FLASHINFER_WORKSPACE_BASE"])
        self.part = NodeKernelCaches(self.fingerprint, self.store.directory, base, environ)
        self.part.start()
        found = workloads(request["model"], request["max_tokens"], request["families"], request["quantizations"])
        refused = {skip.workload for skip in self.tuner.prepare(found)}
        self.workloads = tuple(workload for workload in found if workload.name not in refused)
        self.tasks: tuple[Task, ...] = tasks_of(self.workloads)
        self.began = time.perf_counter()

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        """Run a part of the step and note its seconds."""
        began = time.perf_counter()
        value = work()
        self.seconds[name] = time.perf_counter() - began
        return value

    def serve(self, table: Path) -> dict[str, Any]:
        """Load and replay; what the report says of it."""
        loaded = self.timed("load", lambda: self.tuner.load(table, self.tasks))
        replayed = self.timed("replay", lambda: self.tuner.replay(self.tasks))
        self.timed("triton", lambda: step_kernels(DEVICE))
        self.seconds["total"] = time.perf_counter() - self.began
        return {
            "entries": loaded.entries,
            "hits": loaded.hits,
            "misses": len(loaded.misses),
            "calls": replayed.calls,
            "failed": list(replayed.failed),
            "built": list(replayed.built_modules),
            "triton_compilations": self.part.triton_compilations,
        }


def step_kernels(device: str) -> None:
    """The Triton kernels of a serving step of ours: slot mapping and grammar mask, up to the device's end of them."""
    import torch

    from ray_warmup.warmup.engines.builtin.kernels.grammar_mask import apply_grammar_mask, bitmask_width
    from ray_warmup.warmup.engines.builtin.kernels.launch import default_mode
    from ray_warmup.warmup.engines.builtin.kernels.slot_mapping import compute_slot_mapping

    mode, (requests, tokens, vocabulary) = default_mode(device), (2, 8, 4096)
    starts = torch.tensor([0, 3, tokens], dtype=torch.int32, device=device)
    tables = torch.ones(1, requests, 4, dtype=torch.int32, device=device)
    sizes = torch.tensor([16], dtype=torch.int32, device=device)
    slots = torch.zeros(1, 2 * tokens, dtype=torch.int64, device=device)
    compute_slot_mapping(starts, torch.arange(tokens, device=device), tables, sizes, slots, mode)
    bitmask = torch.full((requests, bitmask_width(vocabulary)), -1, dtype=torch.int32, device=device)
    rows = torch.arange(requests, dtype=torch.int32, device=device)
    apply_grammar_mask(torch.zeros(requests, vocabulary, device=device), bitmask, rows, mode)
    assert int(slots[0, 0]) == 16, "the first token of block 1 is in its first slot"


def workloads(model: str, max_tokens: int, families: list[str], quantizations: list[str]) -> tuple[Workload, ...]:
    """The op calls of a model in bfloat16 (`none`) and in `fp8`, each piece of work once."""
    found: dict[str, Workload] = {}
    for quantization in quantizations:
        config = parse_config(
            {
                "cluster": {"backend": DEVICE, "ranks_per_node": 1},
                "model": {"name": model, "dtype": "bfloat16", "quantization": quantization},
                "autotune": {"max_num_batched_tokens": max_tokens, "families": families or None},
            }
        )
        for workload in rank_workloads(config, load_model(model), 0, DEVICE):
            found.setdefault(workload.identity, replace(workload, name=f"{workload.name}_{quantization}"))
    return tuple(found.values())


def make(step: Step) -> dict[str, Any]:
    """Everything that a node with nothing has to do; writes table and artifact."""
    modules = step.tuner.missing_modules()
    step.timed("compile", lambda: list(step.tuner.compile(modules, step.request["jobs"])))
    step.part.start_tuning()
    results = step.timed("tune", lambda: [step.tuner.tune(task) for task in step.tasks])
    table = step.tuner.table(results, [])
    assert table is not None, "nothing was tuned"
    Path(step.request["table"]).write_bytes(table)
    report = step.serve(Path(step.request["table"]))
    contents, warnings = step.part.collect(step.tuner.libraries(), None, stored_kernels=())
    artifact = pack(
        [table_content(table), *contents],
        key=KEY,
        key_sha256=KEY_SHA256,
        fingerprint=step.fingerprint,
        created_at=time.time(),
        strategy="leader",
        guard=UNGUARDED,
    )
    write_archive(Path(step.request["archive"]), step.place, artifact)
    return report | {"built_first": list(modules), "tasks": len(step.tasks), "warnings": list(warnings)}


def join(step: Step) -> dict[str, Any]:
    """Check, publish, install, activate, then serve."""
    report = _install(step)
    return report | step.serve(step.store.table_path)


def retune(step: Step) -> dict[str, Any]:
    """Tune every task on a node that has the compiled part, as a run does: kernels of the last tune come first."""
    report = _install(step)
    kernels = tuning_kernels.stored_in(step.store)
    step.timed("kernels", lambda: step.part.install_tuning_kernels(kernels))
    step.timed("tune", lambda: [step.tuner.tune(task) for task in step.tasks])
    return report


def serve_table(step: Step) -> dict[str, Any]:
    """Load and replay with the request's table; builds what is missing first."""
    modules = step.tuner.missing_modules()
    if modules:
        step.timed("compile", lambda: list(step.tuner.compile(modules, step.request["jobs"])))
    return step.serve(Path(step.request["table"])) | {"built_first": list(modules)}


def _install(step: Step) -> dict[str, Any]:
    def fetch() -> Artifact:
        _, received = read_archive(Path(step.request["archive"]))
        return verify(received.manifest, received.blobs, KEY)

    artifact = step.timed("fetch_and_check", fetch)
    step.timed("publish", lambda: step.store.publish(artifact))
    result = step.timed("install", lambda: step.part.install(artifact))
    provider = step.part.provider(artifact.manifest.module_set)
    step.timed("activate", lambda: step.tuner.activate(provider))
    missing = step.tuner.missing_modules()
    return {
        "installed": dict(result.counts),
        "warnings": list(result.warnings),
        "missing": list(missing),
        "provider": str(provider),
    }


STEPS: dict[str, Callable[[Step], dict[str, Any]]] = {
    "make": make,
    "table": serve_table,
    "join": join,
    "follow": serve_table,
    "retune": retune,
}


def main() -> int:
    """`python -m tests.bench.artifact_steps REQUEST.json REPORT.json`."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    step = Step(request)
    report = STEPS[request["step"]](step)
    report |= {"seconds": step.seconds, "device": step.tuner.device(), "driver": step.fingerprint["driver"]}
    Path(sys.argv[2]).write_text(json.dumps(report), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
