"""Every command block of every document is executed by a test, or says why not.

A block of commands is fenced as `sh`, and the line before the fence says one of

    <!-- run by tests/x.py::test_y -->     that test executes the block, or the commands of it
    <!-- not run: reason -->               why not; tests that the reason names are there
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ray_warmup.configs import load_config
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.configs.loader import load_request
from tests.artifacts import ROOT
from tests.endings import place_of

DOCUMENTS = (
    "README.md",
    "RUNBOOK.md",
    "ARCHITECTURE.md",
    "SECURITY.md",
    "ENGINES.md",
    "configs/README.md",
    "configs/deploy/README.md",
)
BLOCK = re.compile(r"^(?P<before>[^\n]*)\n```(?P<kind>[\w -]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SHELLS = ("sh", "bash", "shell", "console")
MARKER = re.compile(r"<!-- (?P<what>run by|not run:) (?P<rest>.+) -->")
NAMED_TEST = re.compile(r"(tests/[\w/]+\.py)(?:::(\w+))?")
STARTERS = (
    "ray-warmup ",
    "ray ",
    "python ",
    "pip ",
    "vllm ",
    "./scripts/",
    ".ci/run",
    "docker ",
    "kubectl ",
    "apt-get ",
)
MIN_REASON = 12


@dataclass(frozen=True)
class Block:
    """Commands of a document."""

    document: str
    marker: str
    """The line before the fence."""
    text: str

    @property
    def name(self) -> str:
        """Document and first command."""
        return f"{self.document}: {self.text.splitlines()[0][:60]}"


def blocks_of(document: str, text: str) -> list[Block]:
    """The fenced command blocks of a text."""
    return [Block(document, m["before"], m["text"]) for m in BLOCK.finditer(text) if m["kind"].strip() in SHELLS]


def unfenced_commands(text: str) -> list[str]:
    """Commands in indented blocks, or in fences without a language, which no marker covers."""
    outside = BLOCK.sub(lambda m: m["text"] if not m["kind"].strip() else "", text)
    lines = [
        line.strip() for line in outside.splitlines() if line.startswith("    ") or not line.startswith((" ", "|"))
    ]
    return [line for line in lines if line.startswith(STARTERS)]


def fault_of(block: Block) -> str | None:
    """Why a block's marker does not do, or None."""
    marker = MARKER.fullmatch(block.marker.strip())
    if marker is None:
        return "needs a marker in the line before the fence: run by TEST, or not run: REASON"
    tests = NAMED_TEST.findall(marker["rest"])
    if marker["what"] == "run by" and not any(name for _, name in tests):
        return f"{marker['rest']}: names no test"
    if marker["what"] == "not run:" and len(marker["rest"]) < MIN_REASON:
        return f"{marker['rest']}: is no reason"
    for path, name in tests:
        if not (ROOT / path).exists() or (name and f"def {name}(" not in (ROOT / path).read_text()):
            return f"{path}::{name}: is not there"
    return None


def all_blocks() -> list[Block]:
    """Those of all documents."""
    return [block for name in DOCUMENTS for block in blocks_of(name, (ROOT / name).read_text())]


def test_every_block_says_who_runs_it() -> None:
    """Each marker names a test that is there, or a reason; a planted block without one is found."""
    assert {block.name: fault for block in all_blocks() if (fault := fault_of(block)) is not None} == {}
    planted = (
        "text\n```sh\nray-warmup plan\n```\n<!-- run by tests/nowhere.py::test_x -->\n```sh\nray-warmup plan\n```\n"
    )
    faults = [fault_of(block) for block in blocks_of("planted", planted)]
    assert faults == [
        "needs a marker in the line before the fence: run by TEST, or not run: REASON",
        "tests/nowhere.py::test_x: is not there",
    ]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_command_stands_outside_a_block(document: str) -> None:
    """Indented commands have no marker, so there are none; a planted one is found."""
    assert unfenced_commands((ROOT / document).read_text()) == []
    assert unfenced_commands("text\n\n    ray-warmup plan\n    ray_warmup/  root\n") == ["ray-warmup plan"]


def block_with(words: str) -> Block:
    """The one block in which these words stand."""
    (block,) = [block for block in all_blocks() if words in block.text]
    return block


def run_lines(script: str, directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Commands of a document in a shell that stops at the first error, in a directory and a cache of this test."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = os.environ | {"PATH": path, "RAY_WARMUP_CACHE_ROOT": str(directory / "root"), "COLUMNS": "200"}
    environ.pop("RAY_ADDRESS", None)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=directory,
        env=environ | variables,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def test_a_config_from_vllms_command(tmp_path: Path) -> None:
    """The first of the two commands of the README's start writes a config that is read."""
    (line,) = [line for line in block_with("--from-vllm").text.splitlines() if "--from-vllm" in line]
    done = run_lines(line, tmp_path)
    assert done.returncode == 0, done.stderr
    request = load_request(tmp_path / "my.yaml")
    assert isinstance(request, EngineRunConfig)
    assert request.engine.args["max_num_batched_tokens"] == 8192


def test_the_first_look(tmp_path: Path) -> None:
    """The runbook's first commands answer on a node where nothing ever ran."""
    history, status, doctor = block_with("ray-warmup doctor --quiet").text.splitlines()
    done = run_lines(history, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no run was started here" in done.stdout
    done = run_lines(status, tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "run" in done.stdout  # none, or that of a cluster which this machine happens to be a node of
    done = run_lines(doctor, tmp_path)
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr


def test_an_engine_is_started_after_its_table(tmp_path: Path) -> None:
    """`wait`, `env` and `path` of the README, on a node where a run has ended ready."""
    root = tmp_path / "root"
    config = load_config("cpu_two_nodes", [f"cache.root={root}", "cluster.simulated_nodes=0", "cluster.address=null"])
    (tmp_path / "my.yaml").write_text(config.model_dump_json())
    place = place_of(config, 0)
    digest = place.publish(1)
    place.note((0, 1), table_sha256=digest)
    place.conclude(True, table_sha256=digest)
    block = block_with("ray-warmup wait --config my.yaml --timeout 3600")
    done = run_lines(block.text + 'echo "$TRITON_CACHE_DIR"; test -f "$table"', tmp_path, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def messages_of(runbook: str) -> list[str]:
    """The texts in the first column of the table of failures."""
    rows = [row for row in runbook.split("## FAILED")[1].split("\n## ")[0].splitlines() if row.startswith("| ")]
    return [message for row in rows[1:] for message in re.findall(r"`([^`]+)`", row.split("|")[1])]


def test_the_runbook_quotes_the_product() -> None:
    """Every message of the table of failures is a text of the product, or of the system; an invented one is found."""
    sources = "\n".join(
        path.read_text()
        for folder in ("actors", "warmup", "scripts", "configs")
        for path in (ROOT / folder).rglob("*.py")
    )
    computed = {"1 of 2 nodes", "No space left on device", "signal 9"}
    messages = messages_of((ROOT / "RUNBOOK.md").read_text())
    assert len(messages) > 20
    assert [message for message in messages if message not in sources and message not in computed] == []
    assert messages_of("## FAILED\n| a | b |\n|---|\n| `never said` | `x` |\n") == ["never said"]
