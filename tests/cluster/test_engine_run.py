"""A run of a real engine on simulated nodes, with the fake vLLM: recorded on one, proven on all, found again."""

from __future__ import annotations

import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from typer.testing import CliRunner

from ray_warmup.actors.cluster.node_task import ask_nodes
from ray_warmup.actors.driver.cancelling import cancel_run
from ray_warmup.actors.errors import ClusterError
from ray_warmup.actors.joining.syncing import sync
from ray_warmup.actors.processes.bundle_starter import BundleStarter
from ray_warmup.actors.processes.logs import COORDINATOR, logs_of
from ray_warmup.actors.questions.engine_requests import exit_code_of, standing_on_node
from ray_warmup.actors.registry.client import found_registry, start_registry, stop_registry, tell_registry
from ray_warmup.configs.loader import text_of_config
from ray_warmup.configs.schema import CacheSection
from ray_warmup.scripts.cli import app
from ray_warmup.warmup.artifact.archive import unpack
from ray_warmup.warmup.engines.artifacts.proof_record import refuse
from ray_warmup.warmup.engines.reports.report import EngineReport
from ray_warmup.warmup.engines.vllm.adapter import VLLM_ADAPTER
from ray_warmup.warmup.store.node_store import NodeStore
from tests.engines.engine_runs import config, doing, engines_on, parent_of, phases, plant, run
from tests.testbed import Node, Testbed, wait_until

pytestmark = pytest.mark.cluster


def test_one_node_records_and_every_node_proves(engine_nodes: list[Node]) -> None:
    """The second run finds what the first one left, with its proof, and starts no engine at all."""
    first, events = run(config("engine-life"))
    second, again = run(config("engine-life"))

    assert first.ready, first.error or [node.problems for node in first.nodes]
    assert phases(events) == [
        *("PLACING", "PROBING", "RECORDING", "CAPTURING", "PUSHING", "INSTALLING", "PROVING"),
        "READY",
    ]
    assert sorted(node.role for node in first.nodes) == ["installed", "recorded"]
    assert {node.proven for node in first.nodes} == {"now"}
    assert len({node.key_sha256 for node in first.nodes}) == 1
    for node in first.nodes:
        assert {row.kind: row.compiled for row in node.kinds if row.compiled} == {}
        assert {row.kind: (row.recorded, row.carried, row.placed, row.found) for row in node.kinds} == {
            "deep_gemm": (1, 2, 1, 1),
            "inductor": (2, 2, 2, 2),
            "inductor_home": (1, 1, 1, 1),
            "modelinfos": (1, 1, 1, 1),
            "torch_compile": (1, 1, 1, 1),
        }
    assert second.ready
    assert phases(again) == ["PLACING", "PROBING", "READY"]
    assert [(node.role, node.proven) for node in second.nodes] == [("found", "before"), ("found", "before")]
    assert second.recorded_engine_s == first.recorded_engine_s


def test_a_node_that_joins_takes_what_another_holds(engine_nodes: list[Node]) -> None:
    """Recorded by a run on one node; the run on two installs it on the other, and only that one proves it."""
    alone, _ = run(config("engine-joins", num_nodes=1))
    both, events = run(config("engine-joins", num_nodes=2))

    assert alone.ready
    assert both.ready, both.error
    assert "RECORDING" not in phases(events)
    assert sorted((node.role, node.proven) for node in both.nodes) == [("found", "before"), ("installed", "now")]


@pytest.mark.long
def test_what_was_found_and_is_damaged_is_recorded_anew(engine_nodes: list[Node]) -> None:
    """An artifact that cannot be read on any node is no artifact: one recording follows, and it is proven."""
    first, _ = run(config("engine-changed", num_nodes=1))
    assert first.ready
    for node in engine_nodes:
        for pointer in (node.home / "engine-changed").rglob("current"):
            pointer.write_text("{}")

    second, events = run(config("engine-changed", num_nodes=1))

    assert second.ready, second.error
    assert "RECORDING" in phases(events)
    assert {node.proven for node in second.nodes} == {"now"}


def test_the_command_prints_the_verdict_last(engine_nodes: list[Node], tmp_path: Path) -> None:
    """`ray-warmup run` takes the config of a real engine; the report file says the same as the last line."""
    request = config("engine-command", num_nodes=1).model_dump(mode="json")
    (tmp_path / "my.yaml").write_text(json.dumps(request))
    report = tmp_path / "report.json"

    command = ["run", "--config", str(tmp_path / "my.yaml"), "--report", str(report)]
    result = CliRunner().invoke(app, command, env={"HOME": str(tmp_path)})

    assert result.exit_code == 0, result.output
    last = result.output.splitlines()[-1]
    verdict = json.loads(last.removeprefix("WARMUP_RESULT "))
    assert verdict["run_id"] == json.loads(report.read_text())["run_id"]
    said = {name: verdict[name] for name in ("ready", "exit_code", "nodes", "proven", "on_disk", "error")}
    assert said == {
        "ready": True,
        "exit_code": 0,
        "nodes": 1,
        "proven": 1,
        "on_disk": "1 of 1 nodes",
        "error": None,
    }
    assert len(list(tmp_path.glob("engine-command/reports/*.jsonl"))) == 1
    assert "READY: every node has proven it" in result.output
    table = [line.split() for line in result.output.splitlines() if line.split()[2:3] == ["torch_compile"]]
    assert table == [[verdict_node(report), "0", "torch_compile", "1", "1", "1", "1", "0"]]
    assert EngineReport.from_text(report.read_text()).ready


def verdict_node(report: Path) -> str:
    """The only node of a report, as tables name it."""
    (node,) = json.loads(report.read_text())["nodes"]
    return str(node["node_id"][:8])


def test_an_engine_that_does_not_start_fails_the_run(engine_nodes: list[Node]) -> None:
    """The report names node, phase and the engine's stage, and ends with its last lines; no process is left."""
    report, _ = run(config("engine-fails", args={"fault": "init"}))

    error = report.error or ""
    assert not report.ready
    assert "phase RECORDING, rank 0 on node" in error
    assert "exit code 1 while creating the engine" in error
    assert "the fake engine cannot start" in error
    assert wait_until(lambda: not engines_on(engine_nodes), 15), "an engine process was left"


def test_a_launcher_that_is_killed_takes_its_engine_along(engine_nodes: list[Node]) -> None:
    """Another node records at once, and no process of the killed launcher's engine is left."""
    request = config("engine-killed", args={"slow_s": 2}, proof="off")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, request)
        assert wait_until(lambda: bool(engines_on(engine_nodes)), 60), "no engine was started"
        first = engines_on(engine_nodes)[0]
        os.kill(parent_of(first), signal.SIGKILL)
        assert wait_until(lambda: not Path(f"/proc/{first}").exists(), 15), "the engine was left"
        report, events = running.result(timeout=120)

    assert report.ready, report.error
    (warning,) = [event["text"] for event in events if event["event"] == "warning"]
    assert "died in RECORDING at record_engine" in warning
    assert [node.role for node in report.nodes] == ["installed", "recorded"]
    assert wait_until(lambda: not engines_on(engine_nodes), 15), "an engine process was left"


def test_an_engine_that_hangs_is_late(engine_nodes: list[Node]) -> None:
    """The deadline of one start ends it with the setting's seconds and the stage."""
    report, _ = run(config("engine-hangs", num_nodes=1, start_deadline=3, args={"fault": "hang"}))

    assert "did not finish its start within 3 s; it was creating the engine" in (report.error or "")
    assert wait_until(lambda: not engines_on(engine_nodes), 15), "an engine process was left"


@pytest.mark.long
def test_a_second_run_follows_the_first_and_status_sees_both(engine_nodes: list[Node]) -> None:
    """While an engine is recorded `status` has its stage; the second run waits, then finds the proof of the first."""
    request = config("engine-single", num_nodes=1, args={"slow_s": 2})
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, request)
        assert wait_until(lambda: bool(engines_on(engine_nodes)), 60), "no engine was started"
        second = pool.submit(run, request)
        assert wait_until(lambda: "creating the engine" in doing("RECORDING"), 30), "status did not see the stage"
        (report, _), (follower, events) = first.result(timeout=120), second.result(timeout=120)

    assert report.ready
    assert follower.ready
    assert events[0]["event"] == "waiting"
    assert phases(events) == ["PLACING", "PROBING", "READY"]


def test_a_run_that_is_cancelled_leaves_nothing_but_its_logs(engine_nodes: list[Node]) -> None:
    """Cancelled while an engine starts: the report says by whom, and neither engine nor launcher is left."""
    request = config("engine-stopped", num_nodes=1, args={"fault": "hang"})
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, request)
        assert wait_until(lambda: bool(engines_on(engine_nodes)), 60), "no engine was started"
        launcher = parent_of(engines_on(engine_nodes)[0])
        done = cancel_run("engine-", 60)
        report, _ = running.result(timeout=60)

    assert (done.run_id, done.has_ended, done.was_killed) == (report.run_id, True, False)
    assert (report.error or "").startswith("cancelled by ")
    with pytest.raises(ClusterError, match="no live run has this id; no run is live"):
        cancel_run(report.run_id, 1)
    assert wait_until(lambda: not engines_on(engine_nodes), 15), "an engine process was left"
    assert wait_until(lambda: not Path(f"/proc/{launcher}").exists(), 15), "a launcher was left"
    (first, second), problems = logs_of(report.run_id, None, 100_000)
    assert ([first.rank, second.rank], problems) == ([COORDINATOR, 0], [])
    assert f"run {report.run_id}, rank 0 on node" in second.text


class Holding:
    """Actor as a launcher is: in a bundle of a group, without a GPU of its own."""

    def visible(self, scratch: str) -> list[str]:
        """Start a child on two bundles, twice, and return the GPUs that it sees each time."""
        starter = BundleStarter((1, 0), 1, 0.9, lambda ids, share: [])
        seen = []
        request, result, log = (Path(scratch) / name for name in ("request", "result", "log"))
        os.mkfifo(request)  # nobody writes into it, so that the child waits instead of ending before it was looked at
        for _ in range(2):
            process = starter.start(VLLM_ADAPTER.start_module, request, result, dict(os.environ), log)
            seen.append(visible_in(children_of(os.getpid())[0]))
            process.kill()
        return seen


def children_of(parent: int) -> list[str]:
    """Process numbers of a process' children that were started with the environment of an engine."""
    pids = [pid for pid in os.listdir("/proc") if pid.isdigit()]
    return [pid for pid in pids if Path(f"/proc/{pid}").exists() and parent_of(pid) == parent and visible_in(pid)]


def visible_in(pid: str) -> str:
    """CUDA_VISIBLE_DEVICES of a process, or an empty text."""
    variables = dict(
        row.split(b"=", 1) for row in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if b"=" in row
    )
    return variables.get(b"CUDA_VISIBLE_DEVICES", b"").decode()


def test_an_engine_sees_the_gpus_of_its_bundles(engine_nodes: list[Node], tmp_path: Path) -> None:
    """The launcher holds no GPU. Those of its bundles are held while a child runs, in order, and then given back."""
    group = ray.util.placement_group(
        [{"CPU": 1, "GPU": 1}] * 2, strategy="STRICT_PACK", bundle_label_selector=[{"pool": "engine"}] * 2
    )
    try:
        where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
        actor = ray.remote(Holding).options(num_cpus=1, num_gpus=0, scheduling_strategy=where).remote()
        seen = ray.get(actor.visible.remote(str(tmp_path)), timeout=120)  # six processes start one after the other
        assert [sorted(ids.split(",")) for ids in seen] == [["0", "1"], ["0", "1"]]
        assert seen[0] == seen[1]
    finally:
        ray.util.remove_placement_group(group)


def test_nodes_without_the_engine_are_named(bed: Testbed) -> None:
    """The ordinary nodes have no vLLM."""
    request = config("engine-missing")
    plain = request.model_copy(update={"cluster": request.cluster.model_copy(update={"node_labels": {"pool": "main"}})})

    report, _ = run(plain)

    assert "vLLM is not installed there" in (report.error or "")
    assert any(node.node_id[:8] in (report.error or "") for node in bed.nodes)


def test_a_sync_gives_a_cold_node_what_an_engine_compiled(engine_nodes: list[Node]) -> None:
    """No engine starts: `wait` says 0 on every node afterwards, and the registry hands the same artifact out."""
    warm, cold = engine_nodes
    request = plant("engine-synced", warm)
    text = text_of_config(request)
    before, problems = ask_nodes(standing_on_node, {cold.node_id: (text,)}, 30)
    assert (before[cold.node_id].state, problems) == ("absent", {})

    try:
        started = start_registry(request.cache)
        assert (started.keys, started.notes) == (1, ())
        (note,) = start_registry(CacheSection()).notes
        assert 'cache.root unset (the registry: "~/engine-synced")' in note
        report = sync(request.cache, 60.0)
        assert tell_registry(request.cache) == ()
        (row,) = report.keys
        assert report.is_well
        assert (row.had_it, cold.node_id in row.given_to) == ((warm.node_id,), True)
        after, _ = ask_nodes(standing_on_node, {node.node_id: (text,) for node in engine_nodes}, 30)
        assert exit_code_of(list(after.values()), proof="node", accept="verdict") == 0
        assert after[cold.node_id].text == "put there by sync"
        actor = found_registry()
        (known,) = ray.get(actor.status.remote())
        assert cold.node_id in known.nodes
        assert (known.engine, known.digest) == ("vllm 0.33.0", row.artifact)
        (archive,) = ray.get(actor.bytes_of.remote(row.key_sha256))
        assert unpack(memoryview(ray.get(archive)))[1].digest == row.artifact
    finally:
        stop_registry()


@pytest.mark.long
def test_what_a_proof_refused_leaves_no_node(engine_nodes: list[Node]) -> None:
    """An engine crashed with it here: neither the registry nor a sync takes it."""
    request = plant("engine-refused", engine_nodes[0])
    (pointer,) = (engine_nodes[0].home / "engine-refused" / "engine_caches").rglob("current")
    _, manifest = NodeStore(pointer.parent).current()
    refuse(pointer.parent, manifest.digest, "it crashed")
    assert sync(request.cache, 60.0).keys == ()


@pytest.mark.long
def test_the_remote_store_keeps_what_an_engine_compiled(engine_nodes: list[Node], tmp_path: Path) -> None:
    """A run leaves it there whole; on nodes that have lost everything the next run fetches it and records nothing."""
    request = plant("engine-remote", engine_nodes[0])
    cache = request.cache.model_copy(update={"remote": f"file://{tmp_path}"})
    engine = request.engine.model_copy(update={"proof": "off"})
    request = request.model_copy(update={"cache": cache, "engine": engine})

    first, _ = run(request)
    assert first.ready, first.error
    (manifest,) = (tmp_path / "manifests").rglob("*.json")
    for node in engine_nodes:
        shutil.rmtree(node.home / "engine-remote")
    second, events = run(request)

    assert second.ready, second.error
    assert "RECORDING" not in phases(events)
    assert [node.role for node in second.nodes] == ["found", "found"]
    assert list((tmp_path / "manifests").rglob("*.json")) == [manifest]
    text = text_of_config(request)
    standings, _ = ask_nodes(standing_on_node, {node.node_id: (text,) for node in engine_nodes}, 30)
    assert {row.artifact for row in standings.values()} == {manifest.stem.rpartition("-")[2]}
