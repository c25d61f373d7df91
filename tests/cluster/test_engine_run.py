"""A run of a real engine on simulated nodes, with the fake vLLM: recorded on one, proven on all, found again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ray_warmup.actors.engine_run import run_engine
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.scripts.cli import app
from ray_warmup.warmup.engines.report import EngineReport
from tests.engines.fake_engine import environment
from tests.testbed import Node, Testbed, wait_until

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def engine_nodes(bed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    """Two nodes of a pool of their own, in whose environment the fake engine is installed."""
    found = environment(tmp_path_factory.mktemp("engine"))
    nodes = [bed.add_node(pool="engine", wait=False, PYTHONPATH=found["PYTHONPATH"]) for _ in range(2)]
    bed.wait_for_nodes()
    yield nodes
    bed.remove_node(*nodes)


def config(name: str, num_nodes: int = 2, **engine: Any) -> EngineRunConfig:
    """One replica on each engine node, in a cache root of this test."""
    arguments = {"model": f"/models/{name}", **engine.pop("args", {})}
    document = {
        "cluster": {
            "num_nodes": num_nodes,
            "ranks_per_node": 1,
            "gpus_per_rank": 0,
            "backend": "cpu",
            "node_labels": {"pool": "engine"},
        },
        "engine": {"kind": "vllm", "args": arguments, "start_deadline": 90} | engine,
        "cache": {"root": f"~/{name}"},
        "timeouts": {"placing": 60},
    }
    return EngineRunConfig.model_validate(document)


def run(request: EngineRunConfig) -> tuple[EngineReport, list[dict[str, Any]]]:
    """The report and the events of one run."""
    events: list[dict[str, Any]] = []
    return run_engine(request, on_event=events.append), events


def phases(events: list[dict[str, Any]]) -> list[str]:
    """Names of the phases in order."""
    return [event["phase"] for event in events if event["event"] == "phase"]


def test_one_node_records_and_every_node_proves(engine_nodes: list[Node]) -> None:
    """The second run finds what the first one left and records nothing; both nodes hold one identity."""
    first, events = run(config("engine-life"))
    second, again = run(config("engine-life"))

    assert first.ready, first.error or [node.problems for node in first.nodes]
    assert phases(events) == ["PLACING", "PROBING", "RECORDING", "INSTALLING", "PROVING"]
    assert sorted(node.role for node in first.nodes) == ["installed", "recorded"]
    assert len({node.key_sha256 for node in first.nodes}) == 1
    for node in first.nodes:
        assert {kind.kind: kind.compiled for kind in node.kinds if kind.compiled} == {}
        assert {kind.kind for kind in node.kinds if kind.placed} == {
            "torch_compile",
            "inductor",
            "inductor_home",
            "deep_gemm",
            "modelinfos",
        }
    assert second.ready
    assert phases(again) == ["PLACING", "PROBING", "PROVING"]
    assert [node.role for node in second.nodes] == ["found", "found"]
    assert second.recorded_engine_s is None


def test_a_node_that_joins_takes_what_another_holds(engine_nodes: list[Node]) -> None:
    """Recorded by a run on one node; the run on two installs it on the other and records nothing."""
    alone, _ = run(config("engine-joins", num_nodes=1))
    both, events = run(config("engine-joins", num_nodes=2))

    assert alone.ready
    assert both.ready, both.error
    assert "RECORDING" not in phases(events)
    assert sorted(node.role for node in both.nodes) == ["found", "installed"]


def test_what_was_found_and_does_not_fit_is_recorded_anew(engine_nodes: list[Node]) -> None:
    """An artifact that the index names and that cannot be used is a note, and one recording follows."""
    first, _ = run(config("engine-changed"))
    assert first.ready
    for node in engine_nodes:
        for pointer in (node.home / "engine-changed").rglob("current"):
            pointer.write_text("{}")

    second, events = run(config("engine-changed"))

    assert second.ready, second.error
    assert "RECORDING" in phases(events)
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert notes[0].startswith("the artifact that was found")


def test_the_command_prints_the_verdict_last(engine_nodes: list[Node], tmp_path: Path) -> None:
    """`ray-warmup run` takes the config of a real engine; the report file says the same as the last line."""
    request = config("engine-command", num_nodes=1).model_dump(mode="json")
    (tmp_path / "my.yaml").write_text(json.dumps(request))
    report = tmp_path / "report.json"

    result = CliRunner().invoke(app, ["run", "--config", str(tmp_path / "my.yaml"), "--report", str(report)])

    assert result.exit_code == 0, result.output
    last = result.output.splitlines()[-1]
    assert json.loads(last.removeprefix("WARMUP_RESULT ")) == {
        "ready": True,
        "run_id": json.loads(report.read_text())["run_id"],
        "nodes": 1,
        "proven": 1,
        "error": None,
    }
    assert "READY: every node has proven it" in result.output


@pytest.mark.parametrize(
    ("engine", "complaint"),
    [
        ({"args": {"tensor_parallel_size": 1, "fault": "init"}}, "exit code 1"),
    ],
)
def test_an_engine_that_does_not_start_fails_the_run(
    engine_nodes: list[Node], engine: dict[str, Any], complaint: str
) -> None:
    """The report has the phase's seconds and the engine's last lines; nothing is left running or placed."""
    report, _ = run(config("engine-fails", **engine))

    assert not report.ready
    assert complaint in (report.error or "")
    assert "the fake engine cannot start" in (report.error or "")
    assert wait_until(lambda: not engines_of("/models/engine-fails"), 15), "an engine process was left"


def test_a_launcher_that_is_killed_takes_its_engine_along(engine_nodes: list[Node]) -> None:
    """The run fails by name within seconds, and no process of the engine is left."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, config("engine-killed", args={"fault": "hang"}))
        assert wait_until(lambda: bool(engines_of("/models/engine-killed")), 60), "no engine was started"
        engine = int(engines_of("/models/engine-killed")[0])
        launcher = int(Path(f"/proc/{engine}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(launcher, signal.SIGKILL)
        report, _ = running.result(timeout=60)

    assert "record: a launcher or its node was lost" in (report.error or "")
    assert any(f"node {node.node_id[:8]}" in (report.error or "") for node in engine_nodes)
    assert wait_until(lambda: not engines_of("/models/engine-killed"), 15), "an engine process was left"


def test_an_engine_that_hangs_is_late(engine_nodes: list[Node]) -> None:
    """The deadline of one start ends it with the setting's seconds."""
    report, _ = run(config("engine-hangs", num_nodes=1, start_deadline=3, args={"fault": "hang"}))

    assert "did not finish its start within 3 s" in (report.error or "")
    assert wait_until(lambda: not engines_of("/models/engine-hangs"), 15), "an engine process was left"


def test_nodes_without_the_engine_are_named(bed: Testbed) -> None:
    """The ordinary nodes have no vLLM."""
    request = config("engine-missing")
    plain = request.model_copy(update={"cluster": request.cluster.model_copy(update={"node_labels": {"pool": "main"}})})

    report, _ = run(plain)

    assert "vLLM is not installed there" in (report.error or "")
    assert any(node.node_id[:8] in (report.error or "") for node in bed.nodes)


def engines_of(model: str) -> list[str]:
    """Command lines of the engine starts of a model that still run."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"ray_warmup.warmup.engines.vllm.start" in words:
            request = Path(os.fsdecode(words[-3]))
            if request.is_file() and model in request.read_text():
                found.append(pid)
    return found
