"""What `schedule.py` left open, on two GPUs: `python -m tests.gpu.engine_table.open_questions PHASE WORK OUT`.

Phases, each a command of its own on one machine: `lanes` (the engine's own calls; two ranks over Ray; a recording on
GPU 0 and an empty start on GPU 1, then what needs no quiet machine), `columns` (timed starts beside each other).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.gpu.engine_study import homes, model_folders
from tests.gpu.engine_table import models, pair
from tests.gpu.engine_table.log_keeper import LogKeeper
from tests.gpu.engine_table.measurement import Measurement
from tests.gpu.engine_table.schedule import DENSE, OFF

BESIDE: dict[str, Any] = {**DENSE, "kv_cache_memory_bytes": 8 << 30}
"""Sizes of engines that share a GPU: without vLLM's memory profiling, and with the key of `DENSE`."""
SMALL = {"num_hidden_layers": 8, "max_window_layers": 8}
ROOT, OWN = "dense-root", "dense-own"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("phase", choices=("lanes", "columns"))
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--command", default="ray-warmup", help="path of this project's command")
    parser.add_argument("--until", type=float, default=300, help="seconds after which optional steps are left out")
    options = parser.parse_args()
    run = Measurement(options.work, options.out, options.command, until=options.until)
    model = models.dense(run.work / "models" / "dense")
    if options.phase == "columns":
        columns(run, model)
    else:
        small = model_folders.write(run.work / "models" / "small", model_folders.DENSE | SMALL)
        together(
            lambda: own_calls(run, "own calls", ()),
            lambda: over_two_ranks(run, small),
            lambda: dense(run, model),
        )
    run.add({"name": "end"})


def together(*lanes: Callable[[], Any]) -> None:
    """Run lanes beside each other."""
    threads = [threading.Thread(target=lane) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def own_calls(run: Measurement, name: str, further: tuple[str, ...]) -> bool:
    """The proof of the engine's own calls; returns whether it holds."""
    command = [sys.executable, "-m", "tests.gpu.own_calls", str(run.out / "logs" / name / "told"), *further]
    row = run.run(name, command, {"CUDA_VISIBLE_DEVICES": "0,1"}, limit_s=420)
    return int(row["code"]) == 0


def over_two_ranks(run: Measurement, model: Path) -> None:
    """What needs both GPUs, one after the other."""
    run.guarded("run over ray", pair.run_over_ray, run, model)
    run.guarded("own, then ray", pair.own_then_ray, run, model)
    own_calls(run, "own calls, two ranks", ("--ranks", "2"))


def dense(run: Measurement, model: Path) -> None:
    """Record on GPU 0 and start empty on GPU 1; then a start on the other GPU, and two with other settings."""
    own = run.work / OWN
    empty = lambda: run.serve("dense empty", model, own, "1", BESIDE, OFF)  # noqa: E731
    together(lambda: recorded(run, model), empty)
    ours = {"RAY_WARMUP": "auto", "RAY_WARMUP_CACHE_ROOT": str(run.work / ROOT)}
    on_other = lambda: run.serve("dense ours, on GPU 1", model, run.work / "gpu-1", "1", BESIDE, ours)  # noqa: E731
    together(on_other, lambda: wrong(run, model, ours))


def recorded(run: Measurement, model: Path) -> None:
    """`ray-warmup engine record` on GPU 0."""
    temporary, name = run.work / "dense-tmp", "engine record, dense"
    config = run.config("dense", model, BESIDE, 1)
    command = [run.command, "engine", "record", "--config", str(config), "--json"]
    variables = {"RAY_WARMUP_CACHE_ROOT": str(run.work / ROOT), "CUDA_VISIBLE_DEVICES": "0", "TMPDIR": str(temporary)}
    with LogKeeper(temporary, run.out / "logs" / name):
        run.run(name, command, variables, limit_s=480)


def wrong(run: Measurement, model: Path, ours: dict[str, str]) -> None:
    """A start for which the only artifact was recorded with another `max_num_seqs`, and one without an artifact."""
    sizes = {**BESIDE, "max_num_seqs": 192}
    modules = {"FLASHINFER_WORKSPACE_BASE": homes.environment(run.work / OWN)["FLASHINFER_WORKSPACE_BASE"]}
    home = {**homes.environment(run.work / "wrong"), **modules}
    run.serve("another artifact", model, home, "0", sizes, ours)
    none = {**ours, "RAY_WARMUP_CACHE_ROOT": str(run.work / "empty-root")}
    run.serve("no artifact", model, home, "0", sizes, none)


def columns(run: Measurement, model: Path) -> None:
    """Timed starts, two beside each other, each column on both GPUs by turns."""
    own, ours = run.work / OWN, {"RAY_WARMUP": "auto", "RAY_WARMUP_CACHE_ROOT": str(run.work / ROOT)}
    modules = {"FLASHINFER_WORKSPACE_BASE": homes.environment(own)["FLASHINFER_WORKSPACE_BASE"]}

    def start(name: str, home: Any, gpu: int, variables: dict[str, str]) -> Callable[[], Any]:
        return lambda: run.serve(name, model, home, str(gpu), DENSE, variables)

    for index in range(2):
        home = run.work / f"dense-ours-{index}"
        together(
            start(f"dense own {index}", own, index, OFF),
            start(f"dense ours {index}", home, 1 - index, ours),
        )
    by_hand = [run.work / f"by-hand-{index}" for index in range(2)]
    for copy in by_hand:
        subprocess.run(["cp", "-r", str(own), str(copy)], check=True)
    together(
        start("modules there, empty", {**homes.environment(run.work / "m-empty"), **modules}, 0, OFF),
        start("modules there, ours", {**homes.environment(run.work / "m-ours"), **modules}, 1, ours),
    )
    own.rename(run.work / "moved-away")
    together(start("dense moved by hand 0", by_hand[0], 0, OFF), start("dense moved by hand 1", by_hand[1], 1, OFF))


if __name__ == "__main__":
    main()
