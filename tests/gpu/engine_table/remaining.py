"""What `open_questions.py` left open: `python -m tests.gpu.engine_table.remaining PHASE WORK OUT`.

Phases, each a process of its own, which may run beside each other: `experts` (the experts model on GPU 0 without us),
`pair` (the same on both GPUs by `ray-warmup run` over vLLM's Ray executor), `factors` (loads with other factors).
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_warmup.warmup.engines.vllm.factors import MAY_DIFFER
from tests.gpu.engine_study import model_folders
from tests.gpu.engine_table import models, pair
from tests.gpu.engine_table.log_keeper import LogKeeper
from tests.gpu.engine_table.measurement import Measurement
from tests.gpu.engine_table.open_questions import SMALL, together
from tests.gpu.engine_table.other_factors import APART, RUST, card_site, other_values
from tests.gpu.engine_table.schedule import EXPERTS, OFF

SIZES: dict[str, Any] = {"max_model_len": 4096, "gpu_memory_utilization": 0.15, "kv_cache_memory_bytes": 2 << 30}
WITHOUT_GRAPHS: dict[str, Any] = {**SIZES, "compilation_config": {"cudagraph_mode": "NONE"}}
COMMON = {"VLLM_USE_FLASHINFER_SAMPLER": "0", **RUST}
"""Of every start of `factors`: FlashInfer's sampling module takes two minutes to build and has no part in this."""
Variables = dict[str, str]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=("experts", "pair", "factors"))
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--command", default="ray-warmup", help="path of this project's command")
    parser.add_argument("--until", type=float, default=600, help="seconds after which optional steps are left out")
    options = parser.parse_args()
    run = Measurement(options.work, options.out, options.command, until=options.until)
    run.add({"name": "load", "load": os.getloadavg(), "cores": os.cpu_count()})
    if options.phase == "factors":
        factors(run, model_folders.write(run.work / "models" / "small", model_folders.DENSE | SMALL))
    elif options.phase == "pair":
        run.guarded("pair", pair.experts_over_ray, run, models.experts(run.work / "models" / "experts"))
    else:
        model = models.experts(run.work / "models" / "experts")
        run.serve("experts empty", model, run.work / "experts-own", "0", EXPERTS, OFF, limit_s=900)
    run.add({"name": "end", "load": os.getloadavg()})


def factors(run: Measurement, model: Path) -> None:
    """One recording, and a start that is forced to load it with all other factors at once."""
    ours = recorded(run, "small", model, SIZES)
    if ours is None:
        return
    found: list[dict[str, Any]] = [{}, {}]
    elsewhere = run.work / "snapshots" / "0123456789abcdef"
    elsewhere.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-al", str(model), str(elsewhere)], check=True)

    def reference() -> None:
        found[0] = run.serve("plain factors, forced load", model, run.work / "plain", "0", SIZES, forced(ours))

    def changed() -> None:
        variables = {**ours, **other_values(run.work / "other"), "PYTHONPATH": with_card(run.work / "card")}
        name = "other factors, forced load"
        found[1] = run.serve(name, elsewhere, run.work / "other-home", "0", SIZES, forced(variables))

    together(reference, changed)
    run.guarded("factors", lambda: run.add({"name": "factors", **difference(found[0], found[1])}))
    if not run.is_over():
        run.guarded("without graphs", without_graphs, run, model)


def recorded(run: Measurement, name: str, model: Path, sizes: Mapping[str, Any]) -> Variables | None:
    """`ray-warmup engine record` on GPU 0; the variables of starts that use it."""
    root, temporary, title = run.work / f"{name}-root", run.work / f"{name}-tmp", f"engine record, {name}"
    config = run.config(name, model, sizes, 1, lm_head="tied")
    variables = {**COMMON, "RAY_WARMUP_CACHE_ROOT": str(root), "CUDA_VISIBLE_DEVICES": "0", "TMPDIR": str(temporary)}
    with LogKeeper(temporary, run.out / "logs" / title):
        words = [run.command, "engine", "record", "--config", str(config), "--json"]
        row = run.run(title, words, variables, limit_s=400)
    if row["code"]:
        return None
    return {**COMMON, "RAY_WARMUP": "auto", "RAY_WARMUP_CACHE_ROOT": str(root)}


def without_graphs(run: Measurement, model: Path) -> None:
    """The factor with which vLLM can capture no graph, in an engine that captures none."""
    ours = recorded(run, "no-graphs", model, WITHOUT_GRAPHS)
    if ours is not None:
        variables = forced({**ours, "VLLM_LOG_BATCHSIZE_INTERVAL": "30"})
        run.serve("batch sizes logged, forced load", model, run.work / "no-graphs", "0", WITHOUT_GRAPHS, variables)


def forced(variables: Variables) -> Variables:
    """Variables with which vLLM fails where it cannot load its ahead-of-time file."""
    return {**variables, "VLLM_FORCE_AOT_LOAD": "1"}


def with_card(folder: Path) -> str:
    """PYTHONPATH with the plugin that answers for a network card."""
    return os.pathsep.join([str(card_site(folder)), os.environ.get("PYTHONPATH", "")])


def difference(reference: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Compile factors of two starts that differ, and those of the list that do not."""
    pairs = [row["ours"]["ranks"][0]["compile_factors"] for row in (reference, other)]
    changed = {}
    for name in sorted({*pairs[0], *pairs[1]}):
        values = [factors.get(name) for factors in pairs]
        if values[0] != values[1]:
            changed[name] = values
    not_changed = sorted(set(MAY_DIFFER) - set(changed))
    return {
        "changed": changed,
        "not_in_the_list": sorted(set(changed) - set(MAY_DIFFER)),
        "not_changed": not_changed,
        "tried_apart": APART,
    }


if __name__ == "__main__":
    main()
