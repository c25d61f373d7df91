"""Processes that join a cluster: one measures, the others take what it made from the registry."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.tiny_engine import tiny_config
from tests.joiners import Joiners, joining, request_of, text_of
from tests.testbed import SCRIPTED, Case, Node, wait_until

pytestmark = pytest.mark.cluster


@pytest.fixture
def joiners(case: Case) -> Iterator[Joiners]:
    """`joiners(node, count)` makes processes on a node; they and the registry are ended."""
    with joining() as made:
        yield made


def test_of_many_joiners_one_measures_and_all_are_ready(case: Case, joiners: Joiners) -> None:
    """Six processes on two nodes: each task is measured once in the cluster; a later one asks nobody to measure."""
    import ray

    first, second = case.bed.nodes[:2]
    actors = [*joiners(first, 3), *joiners(second, 3)]
    answers = ray.get([actor.join.remote(text_of(case), 60.0) for actor in actors], timeout=120)
    assert [(answer.ready, answer.error) for answer in answers] == [(True, "")] * 6
    measured = {line.pid for line in case.calls("tune")}
    assert len(measured) == 1
    tasks = [line.task for line in case.calls("tune")]
    assert len(tasks) == len(set(tasks))

    from ray_warmup.actors.registry.client import found_registry

    (row,) = ray.get(found_registry().status.remote())
    assert (row.leader, row.is_in_memory) == ("", True)
    assert {first.node_id, second.node_id} == set(row.nodes)


def test_a_leader_that_dies_gives_way_to_the_next(case: Case, joiners: Joiners) -> None:
    """Killed while it measures: another process, on another node, leads, and measures only what was left."""
    import ray

    first, second = case.bed.nodes[:2]
    case.script(first, task_s=1.0)
    (leader,) = joiners(first, 1)
    doomed = leader.join.remote(text_of(case), 60.0)
    deadline = time.monotonic() + 60
    while not case.calls("tune"):
        assert time.monotonic() < deadline, "the leader never measured"
        time.sleep(0.1)
    (heir,) = joiners(second, 1)
    waiting = heir.join.remote(text_of(case), 60.0)
    assert not ray.wait([waiting], timeout=4.0)[0]
    # Between two tasks it writes files, and a killed writer leaves one until another comes to that node.
    begun = len(case.calls("tune"))
    assert wait_until(lambda: len(case.calls("tune")) > begun, 10)
    os.kill(case.calls("tune")[0].pid, signal.SIGKILL)
    joined = ray.get(waiting, timeout=90)
    assert (joined.ready, joined.error) == (True, "")
    assert any("which measures since" in note for note in joined.notes)
    assert any("tasks of an earlier process are taken over" in note for note in joined.notes)
    lines = case.calls("tune")
    # The last one was under way, and the death may have come before the one before it was told.
    finished = [line.task for line in lines if line.node is first][:-2]
    measured = [line.task for line in lines if line.node is second]
    assert len(finished) >= 2
    assert len(measured) >= 2
    assert not set(finished) & set(measured)
    with pytest.raises(ray.exceptions.RayError):
        ray.get(doomed, timeout=10)


def joins_without_measuring(case: Case, joiners: Joiners, node: Node) -> None:
    """A process on a node becomes warm with what another one has made."""
    import ray

    (one,) = joiners(node, 1)
    joined = ray.get(one.join.remote(text_of(case), 60.0), timeout=90)
    assert (joined.ready, joined.error) == (True, "")
    assert case.calls("tune") == []


@pytest.mark.long
def test_a_registry_that_dies_knows_again_what_the_nodes_hold(case: Case, joiners: Joiners) -> None:
    """Killed after a join: Ray starts it again, and a joiner on another node still takes the artifact."""
    import ray

    from ray_warmup.actors.registry.client import found_registry

    first, second = case.bed.nodes[:2]
    (one,) = joiners(first, 1)
    assert ray.get(one.join.remote(text_of(case), 60.0), timeout=90).ready
    ray.kill(found_registry(), no_restart=False)
    case.forget()
    joins_without_measuring(case, joiners, second)


@pytest.mark.long
def test_a_registry_that_dies_knows_again_what_the_remote_store_has(
    case: Case, joiners: Joiners, tmp_path: Path
) -> None:
    """No node holds it any more: a process whose own configuration names no store takes it, and measures nothing."""
    import ray

    from ray_warmup.actors.registry.client import found_registry

    first, second = case.bed.nodes[:2]
    (one,) = joiners(first, 1)
    text = text_of(case, cache={"remote": f"file://{tmp_path}/shared"})
    assert ray.get(one.join.remote(text, 60.0), timeout=90).ready
    for path in case.files(first, "current"):
        path.unlink()
    ray.kill(found_registry(), no_restart=False)
    case.forget()
    joins_without_measuring(case, joiners, second)
    (row,) = ray.get(found_registry().status.remote())
    assert (row.nodes, row.is_in_memory) == ((second.node_id,), True)


@pytest.mark.long
def test_a_registry_keeps_no_more_in_memory_than_it_may(case: Case, joiners: Joiners) -> None:
    """Of two artifacts one leaves memory, because a disk has it; who asks for that one gets it from there again."""
    import ray

    from ray_warmup.actors.registry.client import found_registry, registry

    first, second = case.bed.nodes[:2]
    case.script(libraries=["one"], library_bytes=8 << 20)
    registry(case.config().cache, 12 << 20)
    (maker,), (other,) = joiners(first), joiners(first)
    text = text_of(case)
    assert ray.get(maker.join.remote(text), timeout=90).ready
    assert ray.get(other.join.remote(text_of(case, autotune={"buckets": [2]})), timeout=90).ready
    actor = found_registry()
    rows = ray.get(actor.status.remote())
    _, size, _ = ray.get(actor.about.remote())
    assert sorted(row.is_in_memory for row in rows) == [False, True]
    assert 8 << 20 < size < 12 << 20
    case.forget()
    (late,) = joiners(second)
    assert ray.get(late.join.remote(text), timeout=90).ready
    assert case.calls("tune") == []
    assert ray.get(actor.about.remote())[1] < 12 << 20


@pytest.mark.long
def test_two_driver_versions_in_one_cluster_are_said(case: Case, joiners: Joiners) -> None:
    """Three nodes, one with another driver: each version measures once, and joiners and `registry status` say why."""
    import ray

    from ray_warmup.actors.registry.client import registry_status

    versions = ("550.54", "560.28", "550.54")
    for node, driver in zip(case.bed.nodes[:3], versions, strict=True):
        case.script(node, parts={"driver": driver})
    found = [ray.get(joiners(node)[0].join.remote(text_of(case), 60.0), timeout=90) for node in case.bed.nodes[:3]]
    assert [(one.ready, one.measured > 0) for one in found] == [(True, True), (True, True), (True, False)]
    said = "nodes have 2 driver versions (550.54 on 2, 560.28 on 1)"
    assert not any("driver versions" in note for note in found[0].notes)
    assert any(said in note for note in found[2].notes), found[2].notes
    status = registry_status()
    assert status is not None
    assert said in status.note
    assert "install one driver on all nodes" in status.note


class Worker:
    """A trainer's worker: an actor that knows nothing of warming up."""

    def __init__(self, pid_file: str) -> None:
        """Note its process."""
        Path(pid_file).write_text(str(os.getpid()))

    def work(self) -> int:
        """Its own business."""
        return os.getpid()


def test_actors_that_exist_already_become_warm(case: Case, joiners: Joiners, tmp_path: Path) -> None:
    """`attach`: one of three measures, two are ready in their own processes, and one that dies is named."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    import ray_warmup

    nodes = case.bed.nodes[:3]
    workers = [
        ray.remote(Worker)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False))
        .remote(str(tmp_path / f"{node.node_id[:8]}.pid"))
        for node in nodes
    ]
    joiners.made += workers
    *alive, doomed = ray.get([worker.work.remote() for worker in workers])
    case.script(nodes[2], fault={"method": "prepare", "kind": "exit"})
    config = case.config(cluster={"num_nodes": None, "ranks_per_node": None, "world_size": 3})
    reports = ray_warmup.attach(config, workers, limit_s=60, tuner=SCRIPTED)
    assert [report.ready for report in reports] == [True, True, False]
    assert [report.ranks[0].rank for report in reports[:2]] == [0, 1]
    assert "the actor of rank 2 was lost: " in (reports[2].error or "")
    assert len({line.pid for line in case.calls("tune")}) == 1
    assert {line.pid for line in case.calls("load")} == set(alive)
    assert ray.get([worker.work.remote() for worker in workers[:2]]) == alive
    assert doomed not in alive


def test_attach_refuses_more_actors_than_ranks(case: Case) -> None:
    """Before anything is asked of them."""
    import ray_warmup
    from ray_warmup.actors.errors import ClusterError

    with pytest.raises(ClusterError, match="2 actors for 1 ranks"):
        ray_warmup.attach(request_of(case), [object(), object()])


def test_a_sync_warms_every_node_without_a_run(case: Case) -> None:
    """One node of three is warm: afterwards all hold the same artifact, and a second sync moves nothing."""
    from ray_warmup.actors.joining.syncing import sync

    warm, *cold = case.bed.nodes
    case.plant(warm)
    cache = case.config().cache
    report = sync(cache, 60.0)
    assert report.is_well
    (row,) = report.keys
    assert (row.had_it, set(row.given_to)) == ((warm.node_id,), {node.node_id for node in cold})
    assert row.bytes > 0
    again = sync(cache, 60.0)
    assert [(row.given_to, row.bytes) for row in again.keys] == [((), 0)]
    case.forget()
    found = case.run()
    assert (found.ready, case.calls("tune")) == (True, [])


class Measurer:
    """A process that measures a real table, whose key `wait` can foretell."""

    def join(self, text: str) -> bool:
        """Become warm."""
        import ray_warmup
        from ray_warmup.configs.loader import config_of_text

        return ray_warmup.ensure_warm(config_of_text(text)).ready


@pytest.mark.long
def test_wait_says_0_on_a_node_that_a_sync_made_warm(case: Case, joiners: Joiners) -> None:
    """It never ran anything; one process on another node has measured."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from ray_warmup.actors.cluster.node_task import ask_nodes
    from ray_warmup.actors.joining.syncing import sync
    from ray_warmup.actors.questions.waiting import answer_here, exit_code_of
    from ray_warmup.configs.loader import text_of_config

    warm, cold = case.bed.nodes[:2]
    config = tiny_config(tokens=2, root=f"~/{case.name}")
    text = text_of_config(config)

    def waited_for(node: Node) -> int | None:
        answers, problems = ask_nodes(answer_here, {node.node_id: (text, None, False, "table")}, 60.0)
        assert problems == {}
        return exit_code_of(answers[node.node_id].table_states)

    strategy = NodeAffinitySchedulingStrategy(warm.node_id, soft=False)
    actor = ray.remote(Measurer).options(num_cpus=0, scheduling_strategy=strategy).remote()
    joiners.made.append(actor)
    assert ray.get(actor.join.remote(text), timeout=120)
    assert (waited_for(warm), waited_for(cold)) == (0, None)
    assert sync(config.cache, 60.0).is_well
    assert waited_for(cold) == 0


def test_every_node_is_examined(case: Case) -> None:
    """`doctor --cluster`: each node answers, versions and clocks agree, and a cache that is open to all is an error."""
    from ray_warmup.actors.questions.examination import examine

    open_to_all = case.bed.nodes[0]
    cache = case.config().cache
    case.cache(open_to_all).mkdir()
    case.cache(open_to_all).chmod(0o777)
    found = examine(cache, 60.0)
    assert {node.node_id for node in case.bed.nodes} < set(found)
    assert [row.level for row in found["cluster"] if row.subject in ("packages", "clocks")] == ["ok", "ok"]
    wrong = {name for name, rows in found.items() if any(row.level == "error" for row in rows)}
    assert wrong == {open_to_all.node_id}
