"""The study of vLLM 0.33.0 on two GPUs: `python -m tests.gpu.engine_study.vllm_study PHASE OUT_FOLDER`.

Phases, each a command of its own that may follow the one before: `imports`, `record` (empty starts), `warm` (own and
carried), `index` (compiled files on another device index), `executors` (plugin, keys, kernels at the first request).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.gpu.engine_study import homes, import_times, model_folders, probe, relocation
from tests.gpu.engine_study.steps import Journal, Step, run, run_together

WORK = Path(os.environ.get("ENGINE_STUDY_WORK", "/tmp/study"))
HOMES, MODELS, PACKED = WORK / "h", WORK / "models", WORK / "packed"
BASE = {"max_model_len": 4096, "max_num_batched_tokens": 8192}
SMALL = BASE | {"kv_cache_memory_bytes": 1 << 30, "gpu_memory_utilization": 0.15, "max_num_seqs": 128}
"""Engines that share a GPU with others."""
EXPERTS = BASE | {"kv_cache_memory_bytes": 4 << 30, "gpu_memory_utilization": 0.4}
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
FORCED = {"VLLM_FORCE_AOT_LOAD": "1"}
PAIR = {
    "tensor_parallel_size": 2,
    "disable_custom_all_reduce": True,
    "compilation_config": {"pass_config": {"fuse_allreduce_rms": False}},
}
"""Two ranks that use no NVLink multicast."""
TWO = {"VLLM_ALLREDUCE_USE_SYMM_MEM": "0", "VLLM_ALLREDUCE_USE_FLASHINFER": "0"}


def engine(
    name: str, model: str, arguments: dict[str, Any], *, requests: str = "first", ray: str = "", **more: Any
) -> Step:
    """A step that starts vLLM as a library."""
    command = [
        "-m",
        "tests.gpu.engine_study.engine_start",
        "RESULT",
        str(MODELS / model),
        "--arguments",
        json.dumps(arguments),
    ]
    command += ["--requests", requests, *(["--ray", ray] if ray else [])]
    return Step(name, more.pop("home", HOMES / name), tuple(command), **more)


def prepare() -> None:
    """Write the model folders."""
    model_folders.write(MODELS / "dense", model_folders.DENSE)
    model_folders.write(MODELS / "experts", model_folders.EXPERTS)


def imports(journal: Journal) -> None:
    """Importing, first without and then with bytecode."""
    sites = [Path(part) for part in os.environ["PYTHONPATH"].split(":") if part.startswith("/tmp/") and "site" in part]
    image = Path(next(part for part in sys.path if part.endswith("site-packages") and not part.startswith("/tmp")))
    facts = {name: os.environ.get(name) for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")}
    journal.add({"what": "bytecode at first", "counts": import_times.bytecode([*sites, image]), "variables": facts})
    journal.add(import_times.once("as installed", journal.folder / "import-1"))
    journal.add({"what": "compileall", "seconds": import_times.compile_all([*sites, image])})
    journal.add({"what": "bytecode then", "counts": import_times.bytecode([*sites, image])})
    journal.add(import_times.once("with bytecode", journal.folder / "import-2"))
    log = journal.folder / "import-3"
    journal.add(import_times.once("with bytecode, timed by module", log, "-X", "importtime"))
    journal.add({"what": "packages", "self_seconds": import_times.by_package(log)})


def record(journal: Journal) -> None:
    """Empty starts of both models beside each other, and what each kind left."""
    steps = [
        engine("dense", "dense", BASE, requests="first,trials", gpus="0", limit_s=420),
        engine(
            "experts",
            "experts",
            BASE,
            requests="first,trials",
            gpus="1",
            limit_s=460,
            variables={"DG_JIT_PRINT_COMPILER_COMMAND": "1"},
        ),
    ]
    bare = threading.Thread(target=_import_without_bytecode, args=(journal,))
    bare.start()
    run_together(steps, journal)
    bare.join()
    for name in ("dense", "experts"):
        journal.add({"what": f"census {name}", "kinds": homes.census(HOMES / name)})


def _import_without_bytecode(journal: Journal) -> None:
    variables = {"PYTHONPYCACHEPREFIX": "/tmp/nowhere", "PYTHONDONTWRITEBYTECODE": "1"}
    journal.add(import_times.once("without bytecode, files in memory", journal.folder / "import-4", **variables))


def pack(journal: Journal, name: str) -> None:
    """Pack a home, and say what came out."""
    began = time.time()
    sizes = journal.guarded(f"pack {name}", relocation.pack, HOMES / name, PACKED / name)
    journal.add({"what": f"packed {name}", "sizes": sizes, "seconds": round(time.time() - began, 2)})
    written = sorted(WORK.glob(f"*/{name}-fill/specialisations-*.txt"), key=lambda path: path.stat().st_size)
    for path in written[-1:]:
        shutil.copy(path, PACKED / f"{name}-specialisations.txt")


def carried(name: str, packed: str, journal: Journal, *, with_aot: bool = True) -> dict[str, str]:
    """A fresh home with a packed one's contents; the variables that it needs."""
    began = time.time()
    extra: dict[str, str] = relocation.unpack(PACKED / packed, HOMES / name, with_aot=with_aot)
    journal.add({"what": f"placed into {name}", "seconds": round(time.time() - began, 2)})
    return extra


def warm(journal: Journal) -> None:
    """The dense model in its own home; then, with that home moved away, from what was carried."""
    fill = engine("dense-fill", "dense", BASE, requests="first,trials", home=HOMES / "dense", gpus="0", limit_s=170)
    journal.guarded(fill.name, run, fill, journal)
    homes.forget_reading(HOMES / "dense")
    for number in range(2):
        own(journal, number)
        if number == 0:
            journal.add({"what": "read again, dense", "kinds": homes.was_read(HOMES / "dense")})
    journal.add({"what": "census dense", "kinds": homes.census(HOMES / "dense")})
    pack(journal, "dense")
    (HOMES / "dense").rename(HOMES / "away-dense")
    for number in range(2):
        carried_start(journal, number)


def own(journal: Journal, number: int) -> None:
    """A start of the dense model in its own home."""
    step = engine(f"dense-own-{number}", "dense", BASE, home=HOMES / "dense", gpus="0", limit_s=120)
    journal.guarded(step.name, run, step, journal)


def carried_start(journal: Journal, number: int) -> None:
    """A start of the dense model from what was carried."""
    name = f"dense-carried-{number}"
    extra = journal.guarded(name, carried, name, "dense", journal) or {}
    step = engine(name, "dense", BASE, gpus="0", variables=FORCED | extra, limit_s=120)
    journal.guarded(name, run, step, journal)
    journal.add({"what": f"census {name}", "kinds": homes.census(HOMES / name)})


def warm_experts(journal: Journal) -> None:
    """The model with experts: empty, own home, carried."""
    variables = {"DG_JIT_PRINT_COMPILER_COMMAND": "1"}
    for name in ("experts-empty", "experts-own"):
        step = engine(name, "experts", EXPERTS, home=HOMES / "experts", gpus="1", variables=variables, limit_s=450)
        journal.guarded(step.name, run, step, journal)
        if name == "experts-own":
            journal.add({"what": "read again, experts", "kinds": homes.was_read(HOMES / "experts")})
        homes.forget_reading(HOMES / "experts")
        journal.add({"what": f"census {name}", "kinds": homes.census(HOMES / "experts")})
    pack(journal, "experts")
    (HOMES / "experts").rename(HOMES / "away-experts")
    extra = journal.guarded("experts-carried", carried, "experts-carried", "experts", journal) or {}
    step = engine("experts-carried", "experts", EXPERTS, gpus="1", variables=FORCED | extra | variables, limit_s=200)
    journal.guarded("experts-carried", run, step, journal)
    journal.add({"what": "census experts-carried", "kinds": homes.census(HOMES / "experts-carried")})


def rest(journal: Journal, out: Path) -> None:
    """Everything with FlashInfer's modules there: timed starts first, then what needs no quiet machine."""
    names = journal.guarded("provider", relocation.provide, WORK / "prebuilt", WORK / "provider")
    journal.add({"what": "modules that are there from the beginning", "names": names})
    os.environ[probe.PROVIDER] = str(WORK / "provider")
    other = threading.Thread(target=journal.guarded, args=("experts", warm_experts, journal))
    other.start()
    journal.guarded("warm", warm, journal)
    journal.guarded("archive", relocation.archive, PACKED / "dense", out / "packed-dense.tar.xz")
    journal.guarded("index", index, journal)
    carried_start(journal, 2)
    (HOMES / "away-dense").rename(HOMES / "dense")
    own(journal, 2)
    other.join()


def compared(name: str, journal: Journal, *, index: int, **variables: str) -> Step:
    """A start with weights that make a difference, its compiled file as the variables say, its outputs kept."""
    extra = journal.guarded(name, lambda: carried(name, "dense", journal, with_aot=False)) or {}
    arguments = SMALL | {"device_ids": [index]}
    chosen = IN_PROCESS | extra | {probe.WEIGHTS: "1"} | variables
    return engine(name, "dense", arguments, requests="outputs", variables=chosen, limit_s=145)


def index(journal: Journal) -> None:
    """A compiled file of index 0 on index 1: as it is, rewritten, and made without an index."""
    recorded = {probe.PLACE: str(PACKED / "dense" / "aot")} | FORCED
    without = {"TORCH_COMPILE_ON_ONE_RANK": "1"}
    first = [
        compared("zero", journal, index=0, **recorded),
        compared("one-own", journal, index=1),
        compared("one-as-is", journal, index=1, **recorded),
        replace(compared("one-alone", journal, index=0, **recorded), gpus="1"),
        compared("one-rewritten", journal, index=1, **recorded, **{probe.REWRITE: "device"}),
        compared("zero-indexless", journal, index=0, **without),
    ]
    run_together(first, journal)
    for name in ("one-own", "zero-indexless"):
        pack(journal, name)
    free = {probe.PLACE: str(PACKED / "zero-indexless" / "aot")} | FORCED
    made_on_one = {probe.PLACE: str(PACKED / "one-own" / "aot")} | FORCED
    second = [
        compared("one-indexless", journal, index=1, **free, **without),
        compared("one-indexless-unset", journal, index=1, **free),
        compared("zero-from-one", journal, index=0, **made_on_one),
        compared("zero-from-one-rewritten", journal, index=0, **made_on_one, **{probe.REWRITE: "device"}),
    ]
    run_together([*second, *executors(journal)], journal)
    pack(journal, "mp-two")
    placed = {probe.PLACE: str(PACKED / "mp-two" / "aot")} | FORCED
    run_together(
        [
            started(
                "ray-two",
                PAIR | {"distributed_executor_backend": "ray"},
                journal,
                ray="plain",
                variables=IN_PROCESS | TWO | placed,
            )
        ],
        journal,
    )


def started(name: str, arguments: dict[str, Any], journal: Journal, **more: Any) -> Step:
    """A start from what was carried, with other arguments; the file of one GPU is not for a pair."""
    is_alone = "tensor_parallel_size" not in arguments
    extra = journal.guarded(name, lambda: carried(name, "dense", journal, with_aot=is_alone)) or {}
    variables = extra | more.pop("variables", {})
    return engine(name, "dense", SMALL | arguments, variables=variables, limit_s=150, **more)


def executors(journal: Journal) -> list[Step]:
    """The plugin in every kind of process, one recorded file under every executor, kernels loaded ahead."""
    recorded = {probe.PLACE: str(PACKED / "dense" / "aot")} | FORCED
    ahead = {"ENGINE_STUDY_PRELOAD": str(PACKED / "dense-specialisations.txt")}
    extra = journal.guarded("serve", carried, "serve", "dense", journal) or {}
    serve = ["-m", "tests.gpu.engine_study.serve_start", "RESULT", str(MODELS / "dense"), "8123"]
    serve += ["--max-model-len", "4096", "--max-num-batched-tokens", "8192", "--max-num-seqs", "128"]
    serve += ["--kv-cache-memory-bytes", str(1 << 30), "--gpu-memory-utilization", "0.15"]
    compared_ray = IN_PROCESS | recorded | {probe.REWRITE: "device", probe.WEIGHTS: "1"}
    return [
        started(
            "uni",
            {"max_num_seqs": None},
            journal,
            gpus="0",
            variables=IN_PROCESS | recorded | ahead,
            requests="first,trials",
        ),
        started("spawn", {}, journal, gpus="0", variables={"VLLM_WORKER_MULTIPROC_METHOD": "spawn"} | recorded),
        Step("serve", HOMES / "serve", tuple(serve), "1", extra, 150),
        started(
            "ray-one",
            {"distributed_executor_backend": "ray"},
            journal,
            ray="second",
            requests="outputs",
            variables=compared_ray,
        ),
        started("mp-two", PAIR | {"distributed_executor_backend": "mp"}, journal, variables=TWO),
    ]


def main() -> None:
    """Command line."""
    phase, out = sys.argv[1], Path(sys.argv[2])
    journal = Journal(WORK, out, phase)
    prepare()
    PACKED.mkdir(parents=True, exist_ok=True)
    if phase == "rest":
        rest(journal, out)
    else:
        {"imports": imports, "record": record}[phase](journal)
    free = shutil.disk_usage(WORK).free
    journal.add({"what": "end", "free_bytes": free})


if __name__ == "__main__":
    main()
