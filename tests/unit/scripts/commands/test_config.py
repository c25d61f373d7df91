"""`ray-warmup config --from-vllm` and `--from-sglang` write a config that `load_request` reads, and refuse by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.configs.loader import load_request
from ray_warmup.scripts.cli import app
from tests.testbed import ROOT

FAKE = ROOT / "tests/engines/fake"


def with_the_fake_engine(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command where a vLLM is installed: the fake one, whose parser is argparse's."""
    return subprocess.run(
        [sys.executable, "-m", "ray_warmup.scripts.cli", "config", *arguments],
        env=os.environ | {"PYTHONPATH": f"{FAKE}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """Model, sizes and cluster; the notes are comments of the file too."""
    path = tmp_path / "my.yaml"
    line = "vllm serve Qwen/Qwen3-0.6B -tp 2 --max-num-batched-tokens 8192 --port 1"
    result = CliRunner().invoke(app, ["config", "--from-vllm", line, "--num-nodes", "3", "-o", str(path)])
    assert result.exit_code == 0, result.output
    request = load_request(str(path))
    assert isinstance(request, EngineRunConfig)
    assert (request.cluster.num_nodes, request.cluster.ranks_per_node) == (3, 2)
    assert request.engine.args == {
        "model": "Qwen/Qwen3-0.6B",
        "tensor_parallel_size": 2,
        "max_num_batched_tokens": 8192,
    }
    assert path.read_text().startswith("# left out --port: no server is started\n")
    assert f"next: ray-warmup plan --config {path}" in result.output


def test_an_argument_that_is_not_covered_is_refused(tmp_path: Path) -> None:
    """Exit 2 by the argument's name, and no file."""
    path = tmp_path / "my.yaml"
    result = CliRunner().invoke(app, ["config", "--from-vllm", "vllm serve m -dp 4", "-o", str(path)])
    assert result.exit_code == 2
    assert "args.data_parallel_size: data parallel replicas are not covered yet" in result.output
    assert not path.exists()


def test_vllms_own_parser_names_what_it_does_not_know() -> None:
    """Where vLLM is installed, a mistyped argument is refused in its words; a right one is not."""
    wrong = with_the_fake_engine("--from-vllm", "vllm serve m --max-num-sequences 3")
    assert wrong.returncode == 2
    assert "vLLM refuses them: unrecognized arguments: --max-num-sequences" in wrong.stderr
    right = with_the_fake_engine("--from-vllm", "vllm serve m --max-num-seqs 3")
    assert right.returncode == 0, right.stderr
    assert "max_num_seqs: 3" in right.stdout
    assert "not installed" not in right.stderr


def test_a_config_of_sglang(tmp_path: Path) -> None:
    """One replica on each node, by SGLang's own names."""
    path = tmp_path / "my.yaml"
    line = "python -m sglang.launch_server --model-path Qwen/Qwen3-0.6B --tp 2 --port 30000"
    result = CliRunner().invoke(app, ["config", "--from-sglang", line, "--num-nodes", "2", "-o", str(path)])
    assert result.exit_code == 0, result.output
    request = load_request(str(path))
    assert isinstance(request, EngineRunConfig)
    assert (request.engine.kind, request.cluster.num_nodes, request.cluster.ranks_per_node) == ("sglang", 2, 2)
    assert request.engine.args == {"model_path": "Qwen/Qwen3-0.6B", "tp_size": 2}
    assert path.read_text().startswith("# left out --port: no server is started\n")


def test_what_sglang_does_not_cover_is_refused() -> None:
    """Exit 2 by the argument's name."""
    result = CliRunner().invoke(app, ["config", "--from-sglang", "sglang serve m --dp-size 4"])
    assert result.exit_code == 2
    assert "args.dp_size: data parallel replicas are not covered yet" in result.output


def test_sglangs_own_parser_names_what_it_does_not_know() -> None:
    """Where SGLang is installed, a mistyped argument is refused in its words; a right one is not."""
    wrong = with_the_fake_engine("--from-sglang", "sglang serve m --max-running-request 3")
    assert wrong.returncode == 2, wrong.stderr
    assert "SGLang refuses them: unrecognized arguments: --max-running-request" in wrong.stderr
    right = with_the_fake_engine("--from-sglang", "sglang serve m --max-running-requests 3")
    assert right.returncode == 0, right.stderr
    assert "max_running_requests: 3" in right.stdout
    assert "not installed" not in right.stderr


@pytest.mark.parametrize("given", [[], ["--from-vllm", "vllm serve m", "--from-sglang", "sglang serve m"]])
def test_one_command_line_is_wanted(given: list[str]) -> None:
    """None and both are refused with what to give."""
    result = CliRunner().invoke(app, ["config", *given])
    assert result.exit_code == 2
    assert "give exactly one of --from-vllm and --from-sglang" in result.output
