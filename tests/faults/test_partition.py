"""A leader behind a network that is really cut: between two network namespaces nothing arrives any more, either way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

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


@pytest.mark.timeout(300)
def test_a_leader_that_comes_back_from_a_cut_network_follows_its_heir(base: Path) -> None:
    """It measured on behind the cut. When it is back it publishes nothing: both nodes have what its heir made."""
    if not can_be_cut():
        pytest.skip("this machine lends no network namespaces")
    command = [*APART, sys.executable, "-m", "tests.faults.cut_network", str(base)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=280, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
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
