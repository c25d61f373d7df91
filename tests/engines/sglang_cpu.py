"""Record a real SGLang on a CPU, prove it in another home with the first one gone, and write down what it took.

    python -m tests.engines.sglang_cpu                     # 15 minutes on two cores; makes .engines/sglang-cpu

SGLang's released wheel with torch's own attention: its real front end, schedulers, plugins, argument resolution and
caches. What its kernel package would do on a processor is done by stand-ins (`sglang_standins/`): a rotary embedding,
and names of torchvision. It asks FlashInfer for nothing there and compiles by torch alone, so tables, modules, Triton
and SGLang's own compiled modules are not seen.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from tests.artifacts import ROOT
from tests.engines.cpu_run import CpuRun, cpu_run, keep
from tests.engines.fetch import directory, fetch
from tests.engines.resolve import build_wheel

VERSION = "0.5.23"
RESULT = ROOT / "tests" / "engines" / "results" / "sglang_cpu.json"
STANDINS = ROOT / "tests" / "engines" / "sglang_standins"
WITH_DEPENDENCIES = [
    "transformers==5.19.0",
    "aiohttp",
    "fastapi",
    "uvicorn>=0.51",
    "uvloop",
    "orjson",
    "msgspec",
    "pyzmq>=25",
    "setproctitle",
    "psutil",
    "openai==2.8.0",
    "openai-harmony==0.0.4",
    "llguidance>=1.7.6,<2",
    "partial_json_parser",
    "interegular",
    "IPython",
    "einops",
    "gguf",
    "pybase64",
    "python-multipart",
    "regex",
    "requests",
    "sentencepiece==0.2.1",
    "tiktoken",
    "pillow",
    "prometheus-client",
    "watchfiles",
    "xxhash",
    "tqdm",
    "pycountry",
    "distro",
    "easydict",
    "zstandard",
    "scipy",
]
ALONE = [
    "xgrammar==0.2.7",
    "compressed-tensors==0.18.0",
    "outlines==0.1.11",
    "outlines_core",
    "blobfile==3.0.0",
    "torch_memory_saver",
    "mistral_common",
    "pydantic_extra_types",
    "jsonschema",
    "lark",
    "diskcache",
    "cloudpickle",
    "nest_asyncio",
    "airportsdata",
    "referencing",
    "dill",
    "loguru",
]
"""Packages whose own requirements would bring another torch, or that need none."""
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "vocab_size": 1024,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "torch_dtype": "bfloat16",
}
ARGUMENTS = {
    "device": "cpu",
    "attention_backend": "torch_native",
    "sampling_backend": "pytorch",
    "disable_radix_cache": True,
    "disable_overlap_schedule": True,
    "max_total_tokens": 2048,
    "mem_fraction_static": 0.2,
}
VARIABLES = {"PYTHONPATH": str(STANDINS), "CUDA_VISIBLE_DEVICES": ""}


def environment() -> Path:
    """Make the engine's virtual environment on first use, install this wheel, and return its bin directory.

    It sees this environment's packages behind its own: torch, FlashInfer and what this project needs.
    """
    venv = directory() / "sglang-cpu"
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    site = venv / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    if not (venv / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        paths = [path for path in sys.path if path.endswith("site-packages")] or [sysconfig.get_path("purelib")]
        (site / "zz_project.pth").write_text("\n".join(paths) + "\n")
        subprocess.run([*pip, *WITH_DEPENDENCIES], check=True)
        subprocess.run([*pip, "--no-deps", *ALONE], check=True)
        unpack(fetch(f"sglang=={VERSION}"), site)
        (venv / "ready").touch()
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([*pip, "--force-reinstall", "--no-deps", str(build_wheel(Path(scratch)))], check=True)
    return venv / "bin"


def unpack(wheel: Path, site: Path) -> None:
    """Unpack the wheel's Python files: its tag names one interpreter for extensions that are not needed here."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not name.endswith(".so") and not name.startswith("sglang/multimodal_gen/"):
                archive.extract(name, site)


def identity(run: CpuRun) -> dict[str, Any]:
    """Return what differs in SGLang's own ways to start: nothing, by its own resolution."""
    script = ROOT / "tests" / "engines" / "sglang_identity.py"
    words = [str(run.binaries / "python"), str(script), str(run.model), json.dumps(ARGUMENTS)]
    done = subprocess.run(words, env=run.environ, stdout=subprocess.PIPE, text=True, check=True)
    differing: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return differing


def main() -> None:
    """Record once, prove once, write the result, end with 1 where the proof does not hold or an identity differs."""
    binaries = environment()
    engine = {"kind": "sglang", "args": ARGUMENTS, "start_deadline": 1200}
    with tempfile.TemporaryDirectory(prefix="ray-warmup-sglang-cpu-") as scratch:
        run = cpu_run(binaries, Path(scratch), MODEL, engine, VARIABLES, timeouts={"probing": 600})
        record, proof, shown = run.command("record"), run.command("prove"), run.command("show")
        differing = identity(run)
    is_proven = keep(
        RESULT,
        f"sglang-cpu=={VERSION}",
        record,
        [proof],
        **{
            "stand-ins": ["torchvision", "vllm._custom_ops.rotary_embedding"],
            "request": shown["engines"][0]["request"]["state"],
            "identity differs": differing,
        },
    )
    sys.exit(not (is_proven and not any(differing.values())))


if __name__ == "__main__":
    main()
