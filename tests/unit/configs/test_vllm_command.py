"""A command line of vLLM becomes the arguments of a config; what a run sets itself is named."""

from __future__ import annotations

import pytest

from ray_warmup.configs import ConfigError
from ray_warmup.configs.vllm_command import read_vllm_command


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("vllm serve Qwen/Qwen3-0.6B", {"model": "Qwen/Qwen3-0.6B"}),
        ("/opt/bin/vllm serve m --max-num-seqs 8", {"model": "m", "max_num_seqs": 8}),
        ("vllm serve --model m --max_num_seqs=8", {"model": "m", "max_num_seqs": 8}),
        ("python -m vllm.entrypoints.openai.api_server --model m -tp 2", {"model": "m", "tensor_parallel_size": 2}),
        ("uv run vllm serve m -tp=2", {"model": "m", "tensor_parallel_size": 2}),
        ("vllm serve m -O3", {"model": "m", "optimization_level": 3}),
        ("vllm serve m --enforce-eager", {"model": "m", "enforce_eager": True}),
        ("vllm serve m --no-enable-prefix-caching", {"model": "m", "enable_prefix_caching": False}),
        ("vllm serve m \\\n  --seed 1", {"model": "m", "seed": 1}),
        ("vllm serve m --gpu-memory-utilization 0.85", {"model": "m", "gpu_memory_utilization": 0.85}),
        ("vllm serve m --cudagraph-capture-sizes 1 2 4", {"model": "m", "cudagraph_capture_sizes": [1, 2, 4]}),
        ("vllm serve m -cc.mode 3", {"model": "m", "compilation_config.mode": 3}),
        ("""vllm serve m --hf-overrides '{"a": [1]}'""", {"model": "m", "hf_overrides": {"a": [1]}}),
        ("vllm serve '/models/my model'", {"model": "/models/my model"}),
    ],
)
def test_arguments_are_read(line: str, arguments: dict[str, object]) -> None:
    """Dashes, underscores, short options, flags, numbers, lists and nested JSON."""
    found = read_vllm_command(line)
    assert (found.arguments, found.left_out, found.variables) == (arguments, (), ())


def test_what_a_run_sets_itself_is_named() -> None:
    """Ours, the server's and secrets are left out with the reason; a secret's text is nowhere."""
    found = read_vllm_command(
        "VLLM_USE_DEEP_GEMM=1 HF_HOME=/x vllm serve m --port 8000 --load-format auto --api-key sk-planted "
        "--hf-token hf_planted"
    )
    assert found.arguments == {"model": "m"}
    assert found.left_out == (
        "--port: no server is started",
        "--load-format: engine.weights says it",
        "--api-key: belongs to the HTTP server, which is not started",
        "--hf-token: is secret, and belongs into the nodes' environment",
    )
    assert found.variables == ("VLLM_USE_DEEP_GEMM", "HF_HOME")
    assert "planted" not in repr(found)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("vllm bench m", "is no command that starts vLLM: vllm serve MODEL"),
        ("vllm serve 'm", "No closing quotation"),
        ("vllm serve --seed 1", "names no model; write it right behind `vllm serve`"),
        ("vllm serve m --seed 1 --seed 2", "--seed is given twice"),
        ("vllm serve m --max-num-seqs 1 --max_num_seqs 2", "max_num_seqs is given twice"),
        ("vllm serve m other", "'other': belongs to no option"),
        ("vllm serve m --config my.yaml", "the file is not read; write its arguments into the command"),
    ],
)
def test_a_line_that_cannot_be_read_says_why(line: str, complaint: str) -> None:
    """One message with the option and what to do."""
    with pytest.raises(ConfigError) as caught:
        read_vllm_command(line)
    assert complaint in str(caught.value)
