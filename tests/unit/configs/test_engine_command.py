"""A command line of vLLM or SGLang becomes the arguments of a config; what a run sets itself is named."""

from __future__ import annotations

import pytest

from ray_warmup.configs import ConfigError
from ray_warmup.configs.engine_command import SGLANG_STARTER, VLLM_STARTER, read_command


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
    found = read_command(line, VLLM_STARTER)
    assert (found.arguments, found.left_out, found.variables) == (arguments, (), ())


def test_what_a_run_sets_itself_is_named() -> None:
    """Ours, the server's and secrets are left out with the reason; a secret's text is nowhere."""
    line = (
        "VLLM_USE_DEEP_GEMM=1 HF_HOME=/x vllm serve m --port 8000 --load-format auto --api-key sk-planted "
        "--hf-token hf_planted"
    )
    found = read_command(line, VLLM_STARTER)
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
        ("vllm serve --seed 1", "names no model; a command is vllm serve MODEL"),
        ("vllm serve m --seed 1 --seed 2", "--seed is given twice"),
        ("vllm serve m --max-num-seqs 1 --max_num_seqs 2", "max_num_seqs is given twice"),
        ("vllm serve m other", "'other': belongs to no option"),
        ("vllm serve m --config my.yaml", "the file is not read; write its arguments into the command"),
    ],
)
def test_a_line_that_cannot_be_read_says_why(line: str, complaint: str) -> None:
    """One message with the option and what to do."""
    with pytest.raises(ConfigError) as caught:
        read_command(line, VLLM_STARTER)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("python -m sglang.launch_server --model-path m", {"model_path": "m"}),
        ("python3 -m sglang.launch_server --model m --tp 2", {"model_path": "m", "tp_size": 2}),
        ("sglang serve m --tensor-parallel-size=4", {"model_path": "m", "tp_size": 4}),
        (
            "/opt/bin/sglang serve --model-path m --mem-fraction-static 0.8",
            {"model_path": "m", "mem_fraction_static": 0.8},
        ),
        ("sglang serve m --cuda-graph-bs 1 2 4", {"model_path": "m", "cuda_graph_bs": [1, 2, 4]}),
        ("sglang serve m --trust-remote-code", {"model_path": "m", "trust_remote_code": True}),
        (
            """sglang serve m --json-model-override-args '{"a": 1}'""",
            {"model_path": "m", "json_model_override_args": {"a": 1}},
        ),
    ],
)
def test_arguments_of_sglang_are_read(line: str, arguments: dict[str, object]) -> None:
    """Its module and its command, other names of options, flags, numbers, lists and nested JSON."""
    found = read_command(line, SGLANG_STARTER)
    assert (found.arguments, found.left_out, found.variables) == (arguments, (), ())


def test_what_a_run_of_sglang_sets_itself_is_named() -> None:
    """Ours and the server's are left out with the reason."""
    line = "SGLANG_X=1 python -m sglang.launch_server --model-path m --host 0.0.0.0 --port 30000 --api-key sk-planted"
    found = read_command(line, SGLANG_STARTER)
    assert found.arguments == {"model_path": "m"}
    assert found.left_out == (
        "--host: no server is started",
        "--port: no server is started",
        "--api-key: belongs to the HTTP server, which is not started",
    )
    assert found.variables == ("SGLANG_X",)
    assert "planted" not in repr(found)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("vllm serve m", "--from-sglang: 'vllm serve m': is no command that starts SGLang: python -m sglang.launch"),
        ("sglang serve --tp 2", "--from-sglang: names no model; a command is python -m sglang.launch_server"),
        ("sglang serve m --tp 2 --tp-size 4", "tp_size is given twice; give it once"),
        ("sglang serve m --config my.yaml", "--from-sglang: --config: the file is not read"),
    ],
)
def test_a_line_of_sglang_that_cannot_be_read_says_why(line: str, complaint: str) -> None:
    """By the option that took it."""
    with pytest.raises(ConfigError) as caught:
        read_command(line, SGLANG_STARTER)
    assert complaint in str(caught.value)
