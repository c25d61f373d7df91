"""What a large run may cost the one process that steps it: time, traffic, words."""

from __future__ import annotations

import time

from ray_warmup.warmup.machine.commands import Adopt, Call, Command
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.messages.answers import Answer
from ray_warmup.warmup.messages.wire import to_bytes
from ray_warmup.warmup.tasks import TacticId
from tests.bench.machine_figures import Clocked, cluster_of, drive
from tests.sim.world import make_result
from tests.unit.warmup.machine.driver import Driver

CPU_S = 6.0
"""Of 2,000 ranks with 1,000 tasks; an answer that looks at every rank would make it 20."""


def test_work_grows_with_the_ranks_not_with_their_square() -> None:
    """A cold sharded run of 2,000 ranks on 250 nodes, which are compared with their peers at the end of TUNING."""
    machine, world, _ = cluster_of(2000, 1000)
    asked: list[str] = []

    def note(command: Command, value: Answer | None) -> None:
        asked.append(command.name if isinstance(command, Call) else "adopt")

    clocked, began = Clocked(machine), time.thread_time()
    drive(clocked, world, note)
    assert machine.phase is Phase.READY, machine.run.error
    assert asked.count("compare") == 2000
    assert sum(clocked.seconds.values()) < CPU_S
    assert time.thread_time() - began < 3 * CPU_S


def test_one_rank_of_a_key_lists_its_tasks() -> None:
    """A thousand tasks of equal ranks are told once, those of another class once more."""
    driver = Driver(nodes=4, per_node=2, classes=2).until(Phase.COMPILING)
    assert driver.asked("probe") == list(range(8))
    assert driver.asked("outline") == [0, 2]
    assert [len(rank_class.tasks) for rank_class in driver.machine.run.classes.values()] == [3, 3]


def test_another_rank_lists_the_tasks_when_the_first_one_dies() -> None:
    """The classes are found once its replacement, or another rank of its key, has answered."""
    driver = Driver(nodes=2, per_node=1).begin()
    for call in driver.in_flight("probe"):
        driver.answer(call)
    assert [call.rank for call in driver.in_flight("outline")] == [0]
    driver.kill(0)
    driver.finish_replacing()
    assert driver.finish().ready
    assert len(driver.asked("outline")) == 2


def test_a_hit_asks_one_node_for_its_rows() -> None:
    """Eight nodes hold the same table: seven of them say its digest and nothing more."""
    driver = Driver(nodes=8, per_node=1, tasks=40)
    for node in range(8):
        driver.store(node, 7)
    moved: dict[str, int] = {}
    answer = driver.world.answer

    def weigh(process, command, rank_class, now):  # type: ignore[no-untyped-def]
        value = answer(process, command, rank_class, now)
        name = "adopt" if isinstance(command, Adopt) else command.name
        moved[name] = moved.get(name, 0) + (0 if value is None else len(to_bytes(value)))
        return value

    driver.world.answer = weigh  # type: ignore[method-assign]
    assert driver.finish().ready
    assert driver.report.classes[0].hit
    assert len(driver.asked("recall_table")) == 1
    assert moved["look_up"] < moved["recall_table"]
    assert all(look.rows is None for look in driver.rank_class().lookups.values())


def test_finished_tasks_are_asked_of_one_node_of_a_directory() -> None:
    """Four nodes on one directory would hand in the same rows four times."""
    driver = Driver(nodes=4, per_node=1, shared=True, tasks=3)
    key = driver.world.classes[0].key
    rows = [make_result("c0t0", "tuned", driver.world._rng)]
    driver.world.directory(0).partial[key] = rows
    driver.until(Phase.TUNING)
    assert driver.asked("recall_finished") == [0]
    assert set(driver.rank_class().results) == {"c0t0"}


def test_a_table_that_serves_a_quarantined_tactic_gives_way_to_the_next_best() -> None:
    """Its rows are looked at when they arrive; equal tables on other nodes are struck out with it."""
    driver = Driver(nodes=3, per_node=1)
    best = driver.store(0, 1, at=9.0)
    driver.store(1, 1, at=8.0)
    other = driver.store(2, 2, at=1.0)
    assert best.results[0].choice is not None
    banned = TacticId("op", "Fast", str(best.results[0].choice.tactic))
    driver.changes["look_up", 1] = {"quarantine": (banned,)}
    assert driver.finish().ready
    assert driver.asked("recall_table") == [0, 2]
    assert driver.rank_class().digest == other.digest
    assert sum("another node has quarantined" in text for text in driver.machine.run.warnings) == 2
