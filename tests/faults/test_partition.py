"""A leader behind a network that is really cut: between two network namespaces nothing arrives any more, either way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from ray_warmup.actors.registry.calls import ANSWER_S
from tests.own_head import processes_below
from tests.testbed import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.long]

APART = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory with a short name, which sockets need. No process may name it at the end."""
    directory = Path(mkdtemp(prefix="rwc"))
    yield directory
    left = processes_below(directory)
    shutil.rmtree(directory, ignore_errors=True)
    assert left == {}


def can_be_cut() -> bool:
    """Whether this machine lends namespaces and cables between them."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    probe = [*APART, "ip", "link", "add", "name", "near", "type", "veth", "peer", "name", "far"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def played(module: str, base: Path) -> Any:
    """What a scenario in namespaces of its own has told, or a skip."""
    if not can_be_cut():
        pytest.skip("this machine lends no network namespaces")
    command = [*APART, sys.executable, "-m", module, str(base)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=280, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(300)
def test_a_leader_that_comes_back_from_a_cut_network_follows_its_heir(base: Path) -> None:
    """It measured on behind the cut. When it is back it publishes nothing: both nodes have what its heir made."""
    told = played("tests.faults.cut_network", base)
    heir, leader = told["heir"], told["leader"]
    print(f"the heir was ready {told['heir_s']:.1f} s after the cut, the leader {told['leader_s']:.1f} s after its end")

    assert (heir["ready"], leader["ready"], heir["error"], leader["error"]) == (True, True, "", "")
    assert told["was_running"]
    assert told["heir_s"] < 25, told
    assert heir["measured"] > 0
    assert any(f"waiting for process {leader['pid']} on" in note for note in heir["notes"]), heir["notes"]
    assert any("another process took the lease over" in note for note in leader["notes"]), leader["notes"]
    assert leader["digest"] == heir["digest"]
    assert len(set(told["stored"])) == 1
    (known,) = told["known"]
    assert (known["digest"], known["leader"], len(known["nodes"]), known["alive"]) == (told["stored"][0], "", 2, 2)


@pytest.mark.timeout(300)
def test_a_node_that_was_declared_dead_comes_back_on_its_old_disk(base: Path) -> None:
    """Ray ends its raylet and the process on it. Started again, its artifacts are known before anybody asks."""
    told = played("tests.faults.lost_node", base)
    print(f"lost {told['lost_s']:.1f} s after the cut, its raylet ended {told['raylet_s']:.1f} s after the cut's end, "
          f"its disk known {told['known_s']:.1f} s after its new start")  # fmt: skip
    heir, late, held = told["heir"], told["late"], told["held"]
    rows_lost, rows = told["rows_lost"], told["rows"]
    (made,) = rows.keys() - {held}

    # While it is lost: its lease goes to the heir, which takes over its tasks, and what it held stays known.
    assert told["lost_s"] < 40
    assert (heir["ready"], heir["error"]) == (True, "")
    assert any("tasks of an earlier process are taken over" in note for note in heir["notes"]), heir["notes"]
    assert told["forgotten_s"] < 20
    assert [rows_lost[key]["nodes"] for key in (held, made)] == [[], [told["head"]]]
    assert [row["leader"] for row in rows_lost.values()] == ["", ""]
    assert rows_lost[held]["digest"] == rows[held]["digest"]
    # Behind the cut nothing is noticed; at its end Ray ends the raylet, and with it the process that measured.
    assert told["survived"] == 1
    assert told["raylet_s"] < 40
    assert told["leader_code"] != 0
    code, said = told["wait_stopped"]
    assert (code, "was interrupted: its process is gone" in said) == (124, True), said
    # Started again it has another id, the same disk, and takes what its heir made.
    assert told["new"] != told["old"]
    assert told["known_s"] < 20
    assert (late["ready"], late["error"], late["digest"]) == (True, "", heir["digest"])
    assert told["measured_late"] == 0
    assert rows[held]["nodes"] == [told["new"]]
    assert set(rows[made]["nodes"]) == {told["head"], told["new"]}
    assert told["wait"][0] == 0, told["wait"]
    assert told["verify"][0] == 0, told["verify"]
    assert told["status"][0] == 0, told["status"]


@pytest.mark.timeout(300)
def test_a_leader_behind_a_long_cut_publishes_and_serves(base: Path) -> None:
    """It waits once for the registry's answer, for as long as every question may take, and offers nothing then."""
    told = played("tests.faults.long_cut", base)
    leader = told["leader"]
    print(f"stored {told['stored_s']:.1f} s after the cut, ready after {told['told_s']:.1f} s")
    assert told["stored"]
    assert told["stored_s"] < ANSWER_S + 25
    assert told["told_s"] < ANSWER_S + 40
    assert (leader["ready"], leader["error"]) == (True, "")
    assert leader["measured"] == 10
    assert "the artifact stays on this node alone: the registry does not answer" in leader["notes"]
