"""The registry, a leader, a node or a driver fails while processes join: who is ready, how soon, and what is said."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ray_warmup.actors.connection.addresses import NAMESPACE
from ray_warmup.actors.registry import client as registry_client
from ray_warmup.actors.registry.client import found_registry, other_registries
from ray_warmup.configs import VERSION
from ray_warmup.warmup.store.node_store import NodeStore
from tests.bench.bench_join import bytes_sent
from tests.fault_injection import FaultInjector, during, limit_files
from tests.joiners import (
    ANSWERED_S,
    OTHER_NAMESPACE,
    Joined,
    Joiners,
    answers,
    joining,
    kill_registry,
    measured_by,
    registries,
    registry_node,
    registry_pid,
    starts_on,
    text_of,
)
from tests.own_head import environment_below, own_head
from tests.raylets import raylet_pid
from tests.testbed import ROOT, Case, Line, Node, alive_nodes, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.long]

BACK_WITHIN_S = 25.0
"""From the death of a registry to the readiness of whoever asks it: its start, and what the nodes tell it."""
HEIR_WITHIN_S = 25.0
"""From the silence of a leader to the readiness of the next: 10 s of silence, and the measuring."""
NODE_WITHIN_S = 45.0
"""From the loss of the registry's node: noticed in 12 s by this cluster's checks, then as above."""
MEBIBYTES_8 = 8 << 20


@pytest.fixture
def joiners(case: Case) -> Iterator[Joiners]:
    """`joiners(node, count)` makes processes on a node; they and every registry are ended."""
    with joining() as made:
        yield made


def until(case: Case, when: Callable[[Line], bool]) -> Line:
    """The first call of that kind, once it comes."""
    assert wait_until(lambda: any(map(when, case.lines())), 60), "the moment of the fault never came"
    return next(filter(when, case.lines()))


@pytest.mark.parametrize(("method", "nth"), [("prepare", 1), ("tune", 8), ("replay", 1)])
def test_a_registry_that_is_killed_is_asked_again(case: Case, joiners: Joiners, method: str, nth: int) -> None:
    """While one leads and another waits, or before the leader hands over: one measures, both are ready."""
    first, second = case.bed.nodes[:2]
    case.script(task_s=0.5, pause_s={method: {str(nth): 1.0}})
    (leader,), (other,) = joiners(first), joiners(second)
    leading = leader.join.remote(text_of(case))
    until(case, during("tune", 1))
    waiting = other.join.remote(text_of(case))
    until(case, during("prepare", 1, second.node_id))
    until(case, during(method, nth, second.node_id if method == "prepare" else first.node_id))
    began = time.monotonic()
    before = kill_registry()
    found = answers(leading, waiting)
    assert time.monotonic() - began < BACK_WITHIN_S
    assert len(measured_by(case)) == 1
    assert registry_pid() != before
    assert len(registries()) == 1
    if method == "tune":
        assert any("the registry is away, asked again for 60 s" in note for note in found[1].notes)


def test_a_registry_that_was_stopped_takes_no_lease_away(case: Case, joiners: Joiners) -> None:
    """It heard nobody for longer than a leader may be silent: once it goes on, the leader leads on."""
    first, second = case.bed.nodes[:2]
    case.script(first, task_s=2.5)
    (leader,), (other,) = joiners(first), joiners(second)
    leading = leader.join.remote(text_of(case))
    until(case, during("tune", 1))
    waiting = other.join.remote(text_of(case))
    time.sleep(2)
    pid = registry_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(13)
    finally:
        os.kill(pid, signal.SIGCONT)
    answers(leading, waiting)
    assert len(measured_by(case)) == 1
    assert registry_pid() == pid


def test_a_registry_that_is_killed_while_it_hands_out_loses_nobody(case: Case, joiners: Joiners) -> None:
    """Three take the artifact: who has its bytes installs them, who has not asks the next registry."""
    first, second = case.bed.nodes[:2]
    (leader,) = joiners(first)
    answers(leader.join.remote(text_of(case)))
    case.forget()
    case.script(pause_s={"check": {"1": 0.5}, "prepare": {"1": 0.3}})
    others = joiners(second, 3)
    asking = [other.join.remote(text_of(case)) for other in others]
    until(case, during("prepare", 1, second.node_id))
    began = time.monotonic()
    kill_registry()
    answers(*asking)
    assert time.monotonic() - began < BACK_WITHIN_S
    assert measured_by(case) == set()


def test_a_registry_goes_with_its_node_and_comes_back_on_another(
    case: Case, joiners: Joiners, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker node is lost while one measures and another waits: Ray starts it elsewhere, and one measured."""
    first, second = case.bed.nodes[:2]
    doomed = case.bed.add_node(pool="doomed", num_cpus=1)
    try:
        monkeypatch.setattr(registry_client, "_head", lambda: doomed.node_id)
        # The control service does not place actors on a new node at once.
        cache = case.config().cache
        assert wait_until(lambda: starts_on(doomed, cache), 30), f"not placed there; alive: {alive_nodes()}"
        before = registry_pid()
        case.script(first, task_s=2.5)
        (leader,), (other,) = joiners(first), joiners(second)
        leading = leader.join.remote(text_of(case))
        until(case, during("tune", 1))
        waiting = other.join.remote(text_of(case))
        until(case, during("tune", 2))
        began = time.monotonic()
        os.kill(doomed.raylet_pid, signal.SIGKILL)
        found = answers(leading, waiting)
        assert time.monotonic() - began < NODE_WITHIN_S
        assert len(measured_by(case)) == 1
        assert registry_node() != doomed.node_id
        assert registry_pid() != before
        assert any("the registry is away" in note for note in found[1].notes)
    finally:
        case.bed.remove_node(doomed)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_leader_that_falls_silent_is_followed(case: Case, joiners: Joiners, number: int) -> None:
    """Killed or stopped while it measures: after ten seconds the waiting process leads. A stopped one that comes back
    finds that it lost the lease: it measures no more, and its node gets what its heir made."""
    first, second = case.bed.nodes[:2]
    case.script(first, task_s=0.5)
    (leader,), (heir,) = joiners(first), joiners(second)
    leading = leader.join.remote(text_of(case))
    line = until(case, during("tune", 3))
    waiting = heir.join.remote(text_of(case))
    time.sleep(1)
    began = time.monotonic()
    os.kill(line.pid, number)
    (found,) = answers(waiting)
    assert time.monotonic() - began < HEIR_WITHIN_S
    assert any(f"waiting for process {line.pid} on" in note for note in found.notes)
    if number == signal.SIGSTOP:
        before = len(case.calls("tune"))
        os.kill(line.pid, signal.SIGCONT)
        (late,) = answers(leading)
        assert late.pid == line.pid
        came_back(case, late, found)
        assert len(case.calls("tune")) - before <= 5  # until the first sign of life was answered


def came_back(case: Case, late: Joined, heir: Joined) -> None:
    """A holder of a lost lease has followed its heir: one artifact is known, and lies on both nodes."""
    import ray

    assert any("another process took the lease over" in note for note in late.notes)
    assert (late.ready, late.digest) == (True, heir.digest)
    tables = [path for node in case.bed.nodes for path in case.files(node, "autotune_configs.json")]
    assert {NodeStore(path.parent).read_artifact().digest for path in tables} == {heir_artifact(case)}
    (row,) = ray.get(found_registry().status.remote())
    assert (row.digest, row.leader) == (heir_artifact(case), "")


def heir_artifact(case: Case) -> str:
    """Digest of the artifact that the second node made."""
    return NodeStore(case.table(case.bed.nodes[1]).parent).read_artifact().digest


def test_a_leader_that_is_cut_off_is_followed(case: Case, joiners: Joiners) -> None:
    """Its node stops answering and is declared lost while its process measures on: the next one leads, both end."""
    import ray

    second = case.bed.nodes[0]
    cut = case.bed.add_node(pool="cut", num_cpus=1)
    raylet = cut.raylet_pid
    try:
        case.script(cut, task_s=4.0)
        (leader,), (heir,) = joiners(cut), joiners(second)
        leading = leader.join.remote(text_of(case))
        line = until(case, during("tune", 1))
        waiting = heir.join.remote(text_of(case))
        time.sleep(1)
        began = time.monotonic()
        os.kill(raylet, signal.SIGSTOP)
        (found,) = answers(waiting)
        assert time.monotonic() - began < NODE_WITHIN_S
        assert cut.node_id not in alive_nodes()
        assert found.pid in measured_by(case)
        assert any(f"waiting for process {line.pid} on" in note for note in found.notes)
        with pytest.raises(ray.exceptions.RayError):
            ray.get(leading, timeout=30)
    finally:
        os.kill(raylet, signal.SIGCONT)
        case.bed.remove_node(cut)


def test_sixty_four_processes_ask_at_once(case: Case, joiners: Joiners) -> None:
    """One measures, all are ready, and the bytes leave the registry's node once for each other node."""
    import ray

    nodes = case.bed.nodes[:3]
    case.script(libraries=["one"], library_bytes=MEBIBYTES_8)
    actors = [actor for node, count in zip(nodes, (22, 21, 21), strict=True) for actor in joiners(node, count)]
    ray.get([actor.pid.remote() for actor in actors], timeout=ANSWERED_S)
    raylets = {node.node_id: node.raylet_pid for node in nodes} | {case.bed.head.node_id: raylet_pid(case.bed.head)}
    before = {node_id: bytes_sent(raylet) for node_id, raylet in raylets.items()}
    began = time.monotonic()
    found = answers(*(actor.join.remote(text_of(case), 110.0) for actor in actors))
    seconds = time.monotonic() - began
    sent = {node_id: bytes_sent(raylet) - before[node_id] for node_id, raylet in raylets.items()}
    (leader,) = {line.node.node_id for line in case.calls("tune")}
    here = registry_node()
    print(f"64 were ready after {seconds:.1f} s; registry on {here[:4]}, leader on {leader[:4]}, bytes sent: {sent}")
    assert len({one.pid for one in found}) == 64
    assert len(measured_by(case)) == 1
    others = len({node.node_id for node in nodes} - {leader, here})
    assert others * MEBIBYTES_8 < sent[here] < (others + 0.5) * MEBIBYTES_8
    assert len({path.parent for node in nodes for path in case.files(node, "autotune_configs.json")}) == 3


def test_an_artifact_that_is_replaced_while_some_install_it(case: Case, joiners: Joiners) -> None:
    """Who has the old one ends ready with it, whole; who asks afterwards gets the new one, and nobody measures."""
    import ray

    first, second, third = case.bed.nodes[:3]
    (maker,) = joiners(first)
    (old,) = answers(maker.join.remote(text_of(case)))
    case.forget()
    case.script(second, pause_s={"check": {"1": 3.0}})
    (early,), (late,) = joiners(second), joiners(third)
    installing = early.join.remote(text_of(case))
    until(case, during("check", 1, second.node_id))
    case.script(salt="other")
    store = NodeStore(case.table(first).parent)
    was = store.read_artifact().digest
    config = case.config(cluster={"num_nodes": 1, "node_labels": {"ray.io/node-id": first.node_id}})
    again = case.run(config, retune=True)
    assert again.ready, again.error
    made = store.read_artifact().digest
    assert made != was
    ray.get(found_registry().learn.remote(), timeout=30)
    case.forget()
    (kept,) = answers(installing)
    (new,) = answers(late.join.remote(text_of(case)))
    assert (kept.digest, new.digest) == (old.digest, again.classes[0].digest)
    assert NodeStore(case.table(second).parent).read_artifact().digest == was
    assert NodeStore(case.table(third).parent).read_artifact().digest == made
    assert measured_by(case) == set()


@pytest.mark.parametrize("require_disk", [True, False])
def test_a_joiner_whose_disk_is_full(case: Case, joiners: Joiners, require_disk: bool) -> None:
    """Measures nothing: it loads from memory, and is ready unless the configuration requires the disk; both say why."""
    import ray

    first, second = case.bed.nodes[:2]
    (maker,) = joiners(first)
    (made,) = answers(maker.join.remote(text_of(case)))
    case.forget()
    case.script(second, pause_s={"prepare": {"1": 0.6}})
    (other,) = joiners(second)
    with FaultInjector(case, during("prepare", 1, second.node_id), limit_files(2000)) as injector:
        found = ray.get(other.join.remote(text_of(case, cache={"require_disk": require_disk})), timeout=ANSWERED_S)
        assert injector.seconds_since() < 15
    assert measured_by(case) == set()
    assert found.ready is not require_disk
    assert found.digest == made.digest
    said = f"{found.error} {' '.join(found.warnings)}"
    assert "File too large" in said
    assert "cache.root" in said


OTHERS = [("version", f"9.9.9 in namespace {NAMESPACE}"), ("namespace", f"{VERSION} in namespace {OTHER_NAMESPACE}")]


@pytest.mark.parametrize(("other", "described"), OTHERS)
def test_versions_and_namespaces_beside_each_other_do_not_meet(
    case: Case, joiners: Joiners, other: str, described: str
) -> None:
    """A process of the other one neither waits for a leader here nor takes its lease: it has a registry of its own."""
    first, second = case.bed.nodes[:2]
    case.script(first, task_s=1.0)
    (leader,), (stranger,) = joiners(first), joiners(second)
    leading = leader.join.remote(text_of(case))
    until(case, during("tune", 2))
    began = time.monotonic()
    text, version = text_of(case), ""
    if other == "version":
        version = "9.9.9"
    else:
        text = text_of(case, cache={"namespace": OTHER_NAMESPACE})
    (found,) = answers(stranger.join.remote(text, 60.0, version))
    assert time.monotonic() - began < BACK_WITHIN_S
    assert not any("waiting" in note for note in found.notes)
    assert found.measured > 0
    assert len(registries()) == 2
    assert ("registry-9.9.9" in registries()) is (other == "version")
    assert other_registries() == (f"one of version {described}",)
    assert answers(leading)[0].measured > 0
    assert len(measured_by(case)) == 2


def test_two_clusters_beside_each_other_do_not_meet(case: Case, joiners: Joiners) -> None:
    """On one machine: what one knows, a process of the other one measures for itself."""
    (maker,) = joiners(case.bed.nodes[0])
    answers(maker.join.remote(text_of(case)))
    base = Path(tempfile.mkdtemp(prefix="rwo"))
    environment = environment_below(base) | {"RAY_WARMUP_TEST_SCRIPT": "{}", "HOME": str(base)}
    environment |= {"FLASHINFER_WORKSPACE_BASE": str(base / "workspace"), "TRITON_CACHE_DIR": str(base / "triton")}
    try:
        with own_head(base, environment, "--num-cpus=1") as address:
            command = [sys.executable, "-c", JOB, address, "", text_of(case, cache={"root": None})]
            said = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, timeout=ANSWERED_S, check=True
            )
    finally:
        shutil.rmtree(base, ignore_errors=True)
    ready, measured = said.stdout.split()
    assert (ready, int(measured) > 0) == ("True", True)


JOB = """
import sys
import time
import tests.testbed
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests.joiners import Joiner

address, node_id, text = sys.argv[1:]
ray.init(address=address, namespace="first-job", log_to_driver=False)
strategy = NodeAffinitySchedulingStrategy(node_id, soft=False) if node_id else "DEFAULT"
actor = ray.remote(Joiner).options(num_cpus=0, scheduling_strategy=strategy).remote()
found = ray.get(actor.join.remote(text))
print(found.ready, found.measured, flush=True)
"""


def first_job(case: Case, node: Node) -> subprocess.Popen[str]:
    """A driver of its own whose actor joins on a node."""
    command = [sys.executable, "-c", JOB, case.bed.address, node.node_id, text_of(case)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_what_the_first_job_made_outlives_its_driver(case: Case, joiners: Joiners) -> None:
    """The driver and its processes are gone: the registry has the bytes, and a process of another job takes them."""
    first, second = case.bed.nodes[:2]
    with first_job(case, first) as job:
        assert job.communicate(timeout=ANSWERED_S)[0].split()[0] == "True"
    case.forget()
    (other,) = joiners(second)
    answers(other.join.remote(text_of(case)))
    assert measured_by(case) == set()


def test_the_driver_of_the_first_job_is_killed_while_its_process_leads(case: Case, joiners: Joiners) -> None:
    """Ray ends its process, the registry stays, and a process of another job leads after ten seconds."""
    first, second = case.bed.nodes[:2]
    case.script(first, task_s=1.0)
    with first_job(case, first) as job:
        until(case, during("tune", 2))
        (other,) = joiners(second)
        waiting = other.join.remote(text_of(case))
        time.sleep(1)
        began = time.monotonic()
        job.kill()
    (found,) = answers(waiting)
    assert time.monotonic() - began < HEIR_WITHIN_S
    assert any("waiting for process" in note for note in found.notes)
