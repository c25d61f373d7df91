"""Record a real SGLang on a CPU, prove it in another home with the first one gone, and write down what it took.

    python -m tests.engines.sglang_cpu                     # 15 minutes on two cores; makes .engines/sglang-cpu

SGLang's released wheel with torch's own attention: its real front end, schedulers, plugins, argument resolution and
caches. What its kernel package would do on a processor is done by stand-ins (`sglang_standins/`): a rotary embedding,
and names of torchvision. It asks FlashInfer for nothing there and compiles by torch alone, so tables, modules, Triton
and SGLang's own compiled modules are not seen.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from tests.artifacts import ROOT
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


def steps(binaries: Path, scratch: Path) -> dict[str, Any]:
    """Record once, prove once; what each command printed for machines."""
    model = scratch / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(MODEL))
    config = scratch / "config.yaml"
    engine = {"kind": "sglang", "args": {"model": str(model), **ARGUMENTS}, "start_deadline": 1200}
    document = {"cluster": {"world_size": 1, "backend": "cpu"}, "engine": engine, "timeouts": {"probing": 600}}
    config.write_text(json.dumps(document))
    environ = {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "HOME": str(scratch),
        "PYTHONPATH": str(STANDINS),
        "RAY_WARMUP_CACHE_ROOT": str(scratch / "root"),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }

    def command(name: str) -> dict[str, Any]:
        words = [str(binaries / "ray-warmup"), "engine", name, "--config", str(config), "--json"]
        done = subprocess.run(words, env=environ, cwd=scratch, stdout=subprocess.PIPE, text=True, check=False)
        if not done.stdout.strip():
            raise SystemExit(f"`{' '.join(words)}` ended with {done.returncode} and printed nothing")
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return answer

    done = {"record": command("record"), "proof": command("prove"), "show": command("show")}
    return done | {"identity": identity(binaries, model, environ)}


def identity(binaries: Path, model: Path, environ: dict[str, str]) -> Any:
    """Return what differs in SGLang's own ways to start: nothing, by its own resolution."""
    script = ROOT / "tests" / "engines" / "sglang_identity.py"
    words = [str(binaries / "python"), str(script), str(model), json.dumps(ARGUMENTS)]
    done = subprocess.run(words, env=environ, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Run everything, write the result, end with 1 where the proof does not hold."""
    binaries = environment()
    with tempfile.TemporaryDirectory(prefix="ray-warmup-sglang-cpu-") as scratch:
        done = steps(binaries, Path(scratch))
    proof = done["proof"]
    (rank,) = proof["ranks"]
    made = {
        "date": datetime.date.today().isoformat(),
        "engine": f"sglang-cpu=={VERSION}",
        "stand-ins": ["torchvision", "vllm._custom_ops.rotary_embedding"],
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "kinds": done["record"]["kinds"],
        "recorded_seconds": done["record"]["seconds"],
        "proofs": [
            {
                "proven": proof["proven"],
                "problems": proof["problems"],
                "seconds": proof["seconds"],
                "placed": rank["placed"],
                "found": rank["counts"]["found"],
                "compiled": rank["counts"]["compiled"],
                "own_seconds": rank["own_seconds"],
            }
        ],
        "request": done["show"]["engines"][0]["request"]["state"],
        "identity differs": done["identity"],
    }
    RESULT.write_text(json.dumps(made, indent=1) + "\n")
    sys.stdout.write(RESULT.read_text())
    is_same = not any(done["identity"].values())
    sys.exit(not (proof["proven"] and is_same))


if __name__ == "__main__":
    main()
