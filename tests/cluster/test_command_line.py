"""The console command against a cluster, with FlashInfer's real AutoTuner: exit codes, output, prediction and path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.configs import WarmupConfig
from tests.models import TINY
from tests.testbed import ROOT, Case, Testbed

pytestmark = pytest.mark.cluster


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`ray-warmup ...` as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "ray_warmup.scripts.cli", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def write(config: WarmupConfig, path: Path) -> str:
    """A config file (JSON is YAML)."""
    path.write_text(config.model_dump_json())
    return str(path)


@dataclass(frozen=True)
class Real:
    """What the command said before, during and after a cold run of two real ranks."""

    case: Case
    config: WarmupConfig
    path: str
    predicted: dict[str, Any]
    cold: subprocess.CompletedProcess[str]
    report: dict[str, Any]


@pytest.fixture(scope="module")
def real(bed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """`plan`, then `run`, on two nodes with a rank each and the sizes of one token."""
    case = Case(bed, "real")
    directory = tmp_path_factory.mktemp("real")
    (directory / "model.json").write_text(json.dumps(TINY))
    config = case.config(
        model={"name": str(directory / "model.json")},
        cluster={"address": bed.address},
        autotune={"buckets": (1,)},
        guard={"rounds": 3},
        timeouts=dict.fromkeys(("probing", "tuning", "guarding", "loading", "replaying"), 100),
    )
    path = write(config, directory / "config.yaml")
    plan = command("plan", "--config", path, "--json")
    assert plan.returncode == 0, plan.stderr
    cold = command("run", "--config", path, "--report", str(directory / "report.json"))
    assert cold.returncode == 0, cold.stdout + cold.stderr
    report = json.loads((directory / "report.json").read_text())
    yield Real(case, config, path, json.loads(plan.stdout), cold, report)
    case.close()


def test_a_real_cold_run_hits_on_every_rank(real: Real) -> None:
    """FlashInfer's AutoTuner measures on the leader and returns the table's winners on both ranks, outside autotune."""
    assert real.report["ready"] is True
    (group,) = real.report["classes"]
    assert (group["tasks"], group["measured"], group["hit"]) == (5, 5, False)
    assert [(r["entries"], r["hits"], r["misses"]) for r in real.report["ranks"]] == [(5, 5, 0)] * 2
    assert {r["digest"] for r in real.report["ranks"]} == {group["digest"]}
    assert "READY in" in real.cold.stdout
    verdict = real.cold.stdout.splitlines()[-1]
    assert verdict.startswith("WARMUP_RESULT ")
    assert json.loads(verdict.removeprefix("WARMUP_RESULT "))["ready"] is True


def test_plan_predicts_keys_paths_and_roles(real: Real) -> None:
    """What `plan` said before, without torch or a rank, is what the run then did."""
    (predicted,) = real.predicted["classes"]
    (group,) = real.report["classes"]
    assert predicted["parts"] == group["parts"]
    assert predicted["key"] == group["key"]
    assert predicted["num_tasks"] == group["tasks"]
    assert predicted["would_hit"] is False
    assert [(r["rank"], r["node_id"], r["role"]) for r in real.predicted["ranks"]] == [
        (r["rank"], r["node_id"], r["role"]) for r in real.report["ranks"]
    ]
    assert {r["table_path"] for r in real.predicted["ranks"]} <= {file["path"] for file in real.report["files"]}


def test_plan_knows_a_hit_and_explains_a_miss(real: Real) -> None:
    """After the run `plan` promises a hit; with another maximum it names the key part that differs."""
    again = command("plan", "--config", real.path, "--json")
    assert json.loads(again.stdout)["classes"][0]["would_hit"] is True
    other = command("plan", "--config", real.path, "--set", "autotune.max_num_batched_tokens=4")
    assert other.returncode == 0, other.stderr
    assert "predicted" in other.stdout
    assert "max_num_batched_tokens" in other.stdout


def test_a_second_run_says_that_it_found_the_table(real: Real) -> None:
    """The warm run, here of one rank, measures nothing, writes nothing, exits 0 and says why."""
    warm = command("run", "--config", real.path, "--set", "cluster.num_nodes=1")
    assert warm.returncode == 0, warm.stdout + warm.stderr
    assert "the tuned table was found in the cache; nothing was measured" in warm.stdout
    assert "wrote " not in warm.stdout


def test_path_and_show_lead_to_the_table(real: Real) -> None:
    """`path`, on the node, prints where the table lies; `show` prints its entries and the digest of the report."""
    node = real.case.bed.nodes[0]
    where = command("path", "--config", real.path, HOME=str(node.home))
    assert Path(where.stdout.strip()) == real.case.table(node)
    shown = command("show", where.stdout.strip(), "--json")
    assert shown.returncode == 0, shown.stderr
    table = json.loads(shown.stdout)
    assert table["digest"] == real.report["classes"][0]["digest"]
    assert len(table["entries"]) == 5
    assert table["metadata"]["flashinfer_version"]


def test_wait_and_status_know_how_it_ended(real: Real) -> None:
    """On a node of the run `wait` exits 0 and `status` has the verdict; for work that nobody did `wait` exits 124."""
    where = ("--address", real.case.bed.address)
    home = str(real.case.bed.nodes[0].home)
    assert command("wait", "--config", real.path, "--timeout", "5", *where, HOME=home).returncode == 0
    other = ("--set", "autotune.max_num_batched_tokens=4", "--timeout", "1")
    assert command("wait", "--config", real.path, *other, *where, HOME=home).returncode == 124
    said = command("status", "--config", real.path, "--json", *where, HOME=home)
    assert said.returncode == 0, said.stderr
    (verdict,) = json.loads(said.stdout)["ended"]
    assert verdict["ready"] is True
    assert verdict["run_id"]
    assert {rank["state"] for rank in verdict["ranks"]} == {"ready"}
    assert verdict["phases"]["LOADING"] > 0


def test_show_refuses_what_is_no_table(tmp_path: Path) -> None:
    """`show` of half a table exits 1 with one message and no traceback."""
    path = tmp_path / "autotune_configs.json"
    path.write_text('{"_metadata": {')
    shown = command("show", str(path))
    assert shown.returncode == 1
    assert str(shown.stderr).startswith("ray-warmup: ")
    assert "Traceback" not in shown.stderr


def test_a_run_that_is_not_ready_exits_1_and_writes_its_report(case: Case, tmp_path: Path) -> None:
    """What cannot be placed: exit code 1, the reason on the screen and in the report."""
    asked = case.config(cluster={"address": case.bed.address, "cpus_per_rank": 99}, timeouts={"placing": 10})
    path = write(asked, tmp_path / "config.yaml")
    failed = command("run", "--config", path, "--report", str(tmp_path / "report.json"))
    assert failed.returncode == 1
    assert "FAILED: PlacementError" in failed.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["ready"] is False
    assert report["error"].startswith("PlacementError")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("cluster.nope=1", ["cluster.nope", "unknown field"]),
        ("autotune.buckets=[3]", ["autotune.buckets", "3 is not a bucket"]),
        ("timeouts.task=0", ["timeouts.task", "0", "greater than 0"]),
    ],
)
def test_wrong_configuration_exits_2(override: str, words: list[str]) -> None:
    """A wrong value names section.field, the value and the rule, and starts nothing."""
    refused = command("run", "--config", "cpu_two_nodes", "--set", override)
    assert refused.returncode == 2
    assert not [word for word in words if word not in refused.stderr], refused.stderr
    assert "Traceback" not in refused.stderr
    assert not refused.stdout


def test_no_wait_exits_3_while_the_work_is_under_way(case: Case, tmp_path: Path) -> None:
    """`run --no-wait` beside an active run of the same work exits 3; the active one ends as ready."""
    case.script(pause_s={"tune": 10})
    path = write(case.config(cluster={"address": case.bed.address}), tmp_path / "config.yaml")
    tuning = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        active = pool.submit(case.run, on_event=lambda event: tuning.set() if event.get("phase") == "TUNING" else None)
        assert tuning.wait(30)
        busy = command("run", "--config", path, "--no-wait")
        assert not active.done(), "the active run was over too soon to prove anything"
        assert active.result(60).ready
    assert busy.returncode == 3
    assert "another run of this work is active" in busy.stderr
