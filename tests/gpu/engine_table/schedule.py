"""All starts of the table, on two GPUs: `python -m tests.gpu.engine_table.schedule WORK OUT --command ray-warmup`.

GPU 0 has the timed starts of the dense model to itself. On GPU 1 the experts model is recorded and started, and the
dense model once with everything empty and nothing of ours. Every start has its own process and home; rows go into
OUT/rows.json as they come, and `table.py` makes the table of them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_warmup.warmup.engines.vllm.adapter import VLLM_ADAPTER
from tests.gpu.engine_study import homes, model_folders
from tests.gpu.engine_study.steps import log_facts
from tests.gpu.engine_table import models
from tests.gpu.engine_table.keeping import Keeper
from tests.gpu.engine_table.measurement import Measurement

TINY = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 2048,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
DENSE: dict[str, Any] = {"max_model_len": 4096, "gpu_memory_utilization": 0.3}
EXPERTS: dict[str, Any] = {"max_model_len": 4096, "gpu_memory_utilization": 0.5, "kv_cache_memory_bytes": 4 << 30}
REHEARSED: dict[str, Any] = {"max_model_len": 512, "max_num_seqs": 70, "enforce_eager": True}
OFF = {"RAY_WARMUP": "off"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--command", default="ray-warmup", help="path of this project's command")
    parser.add_argument("--rehearse", action="store_true", help="a tiny model on a processor, without the experts")
    parser.add_argument("--alone", action="store_true", help="record on this node, without Ray")
    parser.add_argument("--repeats", type=int, default=3, help="warm starts of each column")
    parser.add_argument("--until", type=float, default=780, help="seconds after which optional steps are left out")
    options = parser.parse_args()
    run = Measurement(options.work, options.out, options.command, is_rehearsal=options.rehearse, until=options.until)
    folder, own_home = options.work / "models", run.work / "dense-own"
    sizes = REHEARSED if options.rehearse else DENSE
    model = model_folders.write(folder / "dense", TINY) if options.rehearse else models.dense(folder / "dense")
    cold = sizes if options.rehearse else {**sizes, "kv_cache_memory_bytes": 8 << 30}
    empty = threading.Thread(target=run.serve, args=("dense empty", model, own_home, "1", cold, OFF))
    beside = [empty]
    if not options.rehearse:
        beside.append(threading.Thread(target=experts, args=(run, models.experts(folder / "experts"), options.repeats)))
    for thread in beside:
        thread.start()
    recording = record_alone if options.alone else run_on_two_nodes
    root = run.guarded("recording", recording, run, model, sizes)
    empty.join()
    if root is not None:
        run.run("engine show", [run.command, "engine", "show"], {"RAY_WARMUP_CACHE_ROOT": str(root)})
        dense_timed(run, model, sizes, own_home, root, options.repeats)
        dense_rest(run, model, sizes, own_home, root)
    for thread in beside:
        thread.join()
    run.add({"name": "end"})


def run_on_two_nodes(run: Measurement, model: Path, sizes: Mapping[str, Any]) -> Path:
    """`ray-warmup run` with nothing recorded; returns the cache root of the node that took the artifact."""
    roots, report = run.work / "nodes", run.out / "run_report.json"
    keepers = [Keeper(roots / f"tmp{index}", run.work / f"kept-dense-{index}").start() for index in range(2)]
    config = run.config("dense", model, sizes, 2)
    command = [sys.executable, "-m", "tests.gpu.engine_table.two_nodes", str(config), str(roots), str(report)]
    command += ["--cpu"] if run.is_rehearsal else []
    row = run.run("ray-warmup run", command, {"ENGINE_TABLE_COMMAND": run.command})
    for keeper in keepers:
        keeper.stop()
        if keeper.home is not None:
            (run.out / "logs" / "ray-warmup run" / "engine.log").write_text(keeper.log)
            run.add({"name": "dense recording", "facts": log_facts(keeper.log)})
    nodes = json.loads((roots / "nodes.json").read_text())
    told = json.loads(report.read_text()) if report.exists() else {"nodes": []}
    installed = [one["node_id"] for one in told["nodes"] if one["role"] == "installed"]
    if row["code"] == 0 and installed:
        return Path(nodes[installed[0]]["root"])
    held = [Path(one["root"]) for one in nodes.values() if list(Path(one["root"]).glob("engine_caches/vllm/*/*"))]
    return held[0] if held else record_alone(run, model, sizes)


def record_alone(run: Measurement, model: Path, sizes: Mapping[str, Any]) -> Path:
    """`ray-warmup engine record`, without Ray or where the run did not get so far."""
    root = run.work / "alone"
    config = run.config("dense-alone", model, sizes, 1)
    command = [run.command, "engine", "record", "--config", str(config), "--json"]
    run.run("engine record, dense", command, {"RAY_WARMUP_CACHE_ROOT": str(root), "CUDA_VISIBLE_DEVICES": "0"})
    return root


def experts(run: Measurement, model: Path, repeats: int) -> None:
    """Record the experts model on GPU 1, then start it elsewhere and in the recorded home, by turns."""
    root, temporary = run.work / "experts-root", run.work / "experts-tmp"
    keeper = Keeper(temporary, run.work / "kept-experts").start()
    config = run.config("experts", model, EXPERTS, 1)
    command = [run.command, "engine", "record", "--config", str(config), "--json"]
    variables = {"RAY_WARMUP_CACHE_ROOT": str(root), "CUDA_VISIBLE_DEVICES": "1", "TMPDIR": str(temporary)}
    run.run("engine record, experts", command, variables)
    keeper.stop()
    (run.out / "logs" / "engine record, experts" / "engine.log").write_text(keeper.log)
    run.add({"name": "experts recording", "facts": log_facts(keeper.log)})
    for index in range(repeats):
        if index and run.is_over():
            break
        experts_ours(run, model, root, index, "1")
        run.guarded(f"experts own {index}", experts_own, run, model, keeper, index, "1")


def experts_ours(run: Measurement, model: Path, root: Path, index: int, gpu: str) -> None:
    """Start the experts model in an empty home with what was recorded."""
    variables = {"RAY_WARMUP": "auto", "RAY_WARMUP_CACHE_ROOT": str(root)}
    home = run.work / f"experts-ours-{index}"
    is_last = index == 2
    run.serve(f"experts ours {index}", model, home, gpu, EXPERTS, variables, random_requests=200 if is_last else 0)


def experts_own(run: Measurement, model: Path, keeper: Keeper, index: int, gpu: str) -> None:
    """Start the experts model in the very home in which it was recorded, without us."""
    home = keeper.put_back()
    run.serve(f"experts own {index}", model, VLLM_ADAPTER.home(home), gpu, EXPERTS, OFF)
    shutil.rmtree(home)


def dense_timed(
    run: Measurement, model: Path, sizes: Mapping[str, Any], own_home: Path, root: Path, repeats: int
) -> None:
    """Own and ours by turns on GPU 0; the last of each answers random requests, too."""
    ours = {"RAY_WARMUP": "auto", "RAY_WARMUP_CACHE_ROOT": str(root)}
    for index in range(repeats):
        count = 200 if index == repeats - 1 and not run.is_rehearsal else 0
        run.serve(f"dense own {index}", model, own_home, "0", sizes, OFF, random_requests=count, is_compared=count > 0)
        home = run.work / f"dense-ours-{index}"
        run.serve(f"dense ours {index}", model, home, "0", sizes, ours, random_requests=count, is_compared=True)
    run.serve("dense ours, same home again", model, run.work / "dense-ours-0", "0", sizes, ours)


def dense_rest(run: Measurement, model: Path, sizes: Mapping[str, Any], own_home: Path, root: Path) -> None:
    """The image that has FlashInfer's modules, the time of our code without use, and the home moved by hand."""
    modules = {"FLASHINFER_WORKSPACE_BASE": homes.environment(own_home)["FLASHINFER_WORKSPACE_BASE"]}
    ours = {"RAY_WARMUP": "auto", "RAY_WARMUP_CACHE_ROOT": str(root)}
    steps: list[tuple[str, Path | Mapping[str, str], dict[str, str]]] = [
        ("modules there, ours", {**homes.environment(run.work / "m-ours"), **modules}, ours),
        ("modules there, empty", {**homes.environment(run.work / "m-empty"), **modules}, OFF),
        ("no artifact", own_home, {**ours, "RAY_WARMUP_CACHE_ROOT": str(run.work / "empty-root")}),
        ("another artifact", own_home, {**ours, "RAY_WARMUP_CACHE_ROOT": str(run.work / "experts-root")}),
    ]
    for name, home, variables in steps:
        if not run.is_over():
            run.serve(name, model, home, "0", sizes, variables)
    if not run.is_over():
        own_home.rename(run.work / "moved-by-hand")
        run.serve("dense moved by hand", model, run.work / "moved-by-hand", "0", sizes, OFF)


if __name__ == "__main__":
    main()
