"""Commands about a real engine on several raylets: an interrupted run, caches of every node, waiting from outside.

The fake vLLM; half a minute each (-m long).
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.scripts.cli import app
from ray_warmup.scripts.commands.cache import app as cache_app
from ray_warmup.warmup.artifact.archive import read_archive
from tests.cluster.test_ray_client import ask, door
from tests.engines.engine_runs import config, engines_on, parent_of, run
from tests.leftovers import actors, placement_groups
from tests.testbed import ROOT, Node, Testbed, wait_until

__all__ = ["door"]
pytestmark = [pytest.mark.cluster, pytest.mark.long]

COMMAND = (
    # A shell that starts tests in the background ignores SIGINT.
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from ray_warmup.scripts.cli import app; app()"
)


def written(request: EngineRunConfig, directory: Path, address: str | None = None) -> Path:
    """The file of a request, for a cluster where one is given."""
    document = request.model_dump(mode="json")
    if address is not None:
        document["cluster"]["address"] = address
    path = directory / "my.json"
    path.write_text(json.dumps(document))
    return path


@contextmanager
def starting_engine(bed: Testbed, nodes: list[Node], name: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A driver of `ray-warmup run` whose engine starts and never answers."""
    path = written(config(name, args={"fault": "hang"}), directory, bed.address)
    command = [sys.executable, "-c", COMMAND, "run", "--config", str(path), "--report", str(directory / "report.json")]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert wait_until(lambda: bool(engines_on(nodes)), 90), "no engine was started"
        yield driver
    finally:
        driver.kill()
        driver.communicate(timeout=10)


def assert_nothing_is_left(nodes: list[Node], launcher: int) -> None:
    """Neither engine nor launcher, no actor and no placement group."""
    assert wait_until(lambda: not engines_on(nodes), 15), "an engine process was left"
    assert wait_until(lambda: not Path(f"/proc/{launcher}").exists(), 15), "a launcher was left"
    assert wait_until(lambda: not [*actors(), *placement_groups()], 15), [*actors(), *placement_groups()]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_nothing_and_says_so(
    bed: Testbed, engine_nodes: list[Node], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Ctrl-C and a pod's deletion while an engine starts: its processes and actors are gone, the last line is owed."""
    with starting_engine(bed, engine_nodes, f"engine-signal-{code}", tmp_path) as driver:
        launcher = parent_of(engines_on(engine_nodes)[0])
        driver.send_signal(number)
        output, said = driver.communicate(timeout=60)

    assert driver.returncode == code, said
    verdict = json.loads(output.splitlines()[-1].removeprefix("WARMUP_RESULT "))
    assert (verdict["ready"], verdict["error"]) == (False, "interrupted")
    assert json.loads((tmp_path / "report.json").read_text())["error"] == "interrupted"
    assert "interrupted" in said
    assert "Traceback" not in said
    assert_nothing_is_left(engine_nodes, launcher)


def test_a_driver_that_is_killed_takes_everything_along(bed: Testbed, engine_nodes: list[Node], tmp_path: Path) -> None:
    """Nothing of a run is detached: with its driver the coordinator goes, with that launchers and engines."""
    with starting_engine(bed, engine_nodes, "engine-orphan", tmp_path) as driver:
        launcher = parent_of(engines_on(engine_nodes)[0])
        driver.kill()
        driver.wait(10)
        assert_nothing_is_left(engine_nodes, launcher)


def caches(name: str, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of `ray-warmup cache ... --cluster`: each node's result by its id."""
    done = CliRunner().invoke(cache_app, [*words, "--cluster", "--root", f"~/{name}", "--json"])
    return done.exit_code, {row["node_id"]: row for row in json.loads(done.stdout)["nodes"]}


def test_caches_of_every_node_hold_the_engines_artifact(engine_nodes: list[Node], tmp_path: Path) -> None:
    """`plan` and `cache ls | verify | export --cluster` see each node's artifact, and name one that is damaged."""
    request = config("engine-caches")
    before = CliRunner().invoke(app, ["plan", "--config", str(written(request, tmp_path))])
    report, _ = run(request)
    assert report.ready, report.error
    after = CliRunner().invoke(app, ["plan", "--config", str(written(request, tmp_path))])
    assert (before.exit_code, after.exit_code) == (0, 0), before.output + after.output
    assert before.output.count("miss: nothing was recorded for vllm 0.33.0 on this node") == 2
    assert after.output.count(": would place deep_gemm 2, inductor 2") == 2
    key = report.nodes[0].key_sha256
    ours = [node.node_id for node in engine_nodes]

    code, listed = caches("engine-caches", "ls")
    assert code == 0
    for node_id in ours:
        (store,) = listed[node_id]["result"]
        assert store["path"].endswith(f"engine_caches/vllm/0.33.0/{key}")
    code, verified = caches("engine-caches", "verify")
    assert code == 0, verified
    exported = CliRunner().invoke(
        cache_app,
        ["export", str(tmp_path / "engine.tar.gz"), key, "--cluster", "--root", "~/engine-caches"],
    )
    assert exported.exit_code == 0, exported.output
    assert read_archive(tmp_path / "engine.tar.gz")[1].manifest.key.sha256 == key

    blobs = engine_nodes[1].home / "engine-caches" / "engine_caches" / "vllm" / "0.33.0" / key / "blobs"
    largest = max(blobs.iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(b"x" + largest.read_bytes()[1:])
    code, verified = caches("engine-caches", "verify")
    assert code == 1
    assert [node_id for node_id in ours if not verified[node_id]["ok"]] == [ours[1]]


def test_an_engine_is_waited_for_through_ray_client(engine_nodes: list[Node], door: str, tmp_path: Path) -> None:
    """`wait --address ray://...` exits 124 while nothing is recorded, and 0 once every node has proven it."""
    request = config("engine-client")
    path = written(request, tmp_path)
    wait = ("wait", "--config", str(path), "--timeout", "2")
    before = ask(door, tmp_path, *wait)
    report, _ = run(request)
    assert report.ready, report.error
    after = ask(door, tmp_path, *wait)

    assert before.returncode == 124
    assert before.stderr.count("nothing was recorded for this request with vllm 0.33.0 on this node") == 2
    assert after.returncode == 0, after.stderr
