"""The study of SGLang 0.5.23 on one GPU: `python -m tests.gpu.engine_study.sglang_study PHASE OUT_FOLDER`.

Phases: `imports` (what is missing, with the first error), `start` (empty, then warm in the same home).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.gpu.engine_study import homes, import_times, model_folders
from tests.gpu.engine_study.steps import Journal, Step, run, run_together

WORK = Path(os.environ.get("ENGINE_STUDY_WORK", "/tmp/study"))
HOMES, MODELS = WORK / "h", WORK / "models"
ARGUMENTS = {
    "quantization": "modelopt_fp8",
    "attention_backend": "triton",
    "sampling_backend": "pytorch",
    "cuda_graph_max_bs_decode": 32,
    "disable_prefill_cuda_graph": True,
    "mem_fraction_static": 0.15,
    "context_length": 4096,
    "log_level": "info",
}
MODULES = (
    "sgl_kernel",
    "sglang",
    "sglang.srt.server_args",
    "sglang.srt.entrypoints.engine",
    "sglang.srt.managers.scheduler",
    "sglang.srt.models.llama",
    "sglang.srt.layers.quantization.modelopt_quant",
)


def imports(journal: Journal) -> None:
    """Import what an engine needs, each in a process of its own."""
    code = "import importlib, sys; importlib.import_module(sys.argv[1]); print('fine')"
    steps = [Step(f"import-{name}", HOMES / "imports", ("-c", code, name), "1", limit_s=120) for name in MODULES]
    run_together(steps, journal)
    for step in steps:
        log = (journal.folder / step.name / "log").read_text(errors="replace")
        journal.add({"what": step.name, "end": log[-700:]})


def start(journal: Journal) -> None:
    """An empty start and a second one in the same home."""
    model_folders.write(MODELS / "llama-fp8", model_folders.LLAMA_FP8)
    given = json.loads(os.environ.get("SGLANG_STUDY_ARGUMENTS", "{}"))
    command = ["-m", "tests.gpu.engine_study.sglang_start", "RESULT", str(MODELS / "llama-fp8")]
    command += ["--arguments", json.dumps(ARGUMENTS | given)]
    variables = {"SGLANG_ENABLE_JIT_DEEPGEMM": "0", "PYTHONPATH": f"{os.environ['PYTHONPATH']}:/tmp/sgl"}
    for name in ("sglang-empty", "sglang-own"):
        row = run(Step(name, HOMES / "sglang", tuple(command), "1", variables, limit_s=300), journal)
        journal.add({"what": f"census {name}", "kinds": homes.census(HOMES / "sglang")})
        if "to_first" not in row:
            break


def main() -> None:
    """Command line."""
    phase, out = sys.argv[1], Path(sys.argv[2])
    journal = Journal(WORK, out, f"sglang-{phase}")
    if phase == "imports":
        journal.add({"what": "bytecode", "seconds": import_times.compile_all([Path("/tmp/sgl")])})
        imports(journal)
    else:
        start(journal)


if __name__ == "__main__":
    main()
