"""Whole runs without a failure: what is asked of whom, and what the report says at the end."""

from __future__ import annotations

import json
import random

from ray_warmup.warmup.machine.commands import Call
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.tasks import TacticId
from tests.sim.world import make_result
from tests.unit.warmup.machine.driver import Driver, name_of
from tests.unit.warmup.machine.reports.test_on_disk import ANY_DISK

NO_GUARD = {"guard": {"enabled": False}}


def test_a_cold_run_tunes_once_and_ends_ready() -> None:
    """Without any table the leader tunes and guards, one writer per node installs, every rank loads and replays."""
    driver = Driver()
    report = driver.finish()
    assert report.ready
    assert set(driver.asked("tune")) == {0}
    assert sorted(driver.measured()) == ["c0t0", "c0t1", "c0t2"]
    assert driver.asked("pack") == [0]
    assert sorted(driver.asked("install")) == [0, 2]
    assert sorted(driver.asked("load")) == sorted(driver.asked("replay")) == [0, 1, 2, 3]
    assert (report.classes[0].measured, report.classes[0].reused, report.classes[0].hit) == (3, 0, False)
    assert {rank.digest for rank in report.ranks} == {report.classes[0].digest}


def test_only_the_leader_is_told_that_it_will_pack() -> None:
    """Ranks that share the tuning are not: each would start a process for it."""
    driver = Driver(strategy="sharded")
    assert driver.finish().ready
    told = {(c.rank, c.question.packs) for c in driver.log if isinstance(c, Call) and c.name == "tune"}
    assert {(0, True), (1, False)} <= told
    assert {rank for rank, packs in told if packs} == set(driver.asked("pack")) == {0}


def test_roles_and_phases_are_reported() -> None:
    """Leader, second node's writer and follower are told apart, and every phase has its seconds."""
    report = Driver().finish()
    assert [rank.role for rank in report.ranks] == ["leader", "follower", "writer", "follower"]
    assert list(report.phases) == [str(phase) for phase in Phase if phase.name not in ("PLACING", "READY", "FAILED")]
    assert report.ranks[3].phases["LOADING"] == 0.5


def test_a_table_everywhere_is_neither_tuned_nor_pushed() -> None:
    """A guarded table on every node skips TUNING, GUARDING, PUSHING and INSTALLING; it is loaded and replayed."""
    driver = Driver()
    table = driver.store(0, 7)
    driver.store(1, 7)
    report = driver.finish()
    assert report.ready
    assert report.classes[0].hit
    assert report.classes[0].digest == table.digest
    assert not {"tune", "guard", "pack", "pack_stored", "adopt", "install"} & set(map(str, methods(driver)))
    assert (report.classes[0].measured, report.classes[0].reused) == (0, 3)


def test_a_table_on_one_node_is_shipped_to_the_other() -> None:
    """A hit on the second node alone is packed there and installed on the first node only."""
    driver = Driver()
    table = driver.store(1, 7)
    report = driver.finish()
    assert report.ready
    assert report.classes[0].digest == table.digest
    assert driver.asked("pack_stored") == [2]
    assert driver.asked("install") == [0]
    assert driver.asked("tune") == []


def test_the_newest_guarded_table_wins() -> None:
    """Guarded beats newer, newer beats older; nodes with another table are overwritten with a warning."""
    driver = Driver(nodes=3)
    driver.store(0, 1, guarded=True, at=10.0)
    chosen = driver.store(1, 2, guarded=True, at=20.0)
    driver.store(2, 3, guarded=False, at=99.0)
    report = driver.finish()
    assert report.classes[0].digest == chosen.digest
    assert sorted(driver.asked("install")) == [0, 4]
    assert [w for w in report.warnings if "holds another valid table" in w and "rank 2's replaces it" in w]


def test_a_table_with_a_tactic_that_another_node_quarantined_is_not_served() -> None:
    """The node with the table knows nothing of it; the class tunes again, and a warning says why."""
    driver = Driver()
    table = driver.store(1, 7)
    bad = table.results[0].choice
    assert bad is not None
    driver.changes["look_up", 0] = {"quarantine": (TacticId("op", bad.runner, json.dumps(bad.tactic)),)}
    report = driver.finish()
    assert report.ready
    assert len(driver.asked("tune")) == 3
    assert [w for w in report.warnings if "its table names a tactic that another node has quarantined" in w]


def test_equal_times_are_decided_by_digest() -> None:
    """Two guarded tables of one time: the larger digest wins, whichever node has it."""
    digests = []
    for swap in (False, True):
        driver = Driver()
        tables = [driver.store(node, 5 + (node != swap), at=10.0) for node in (0, 1)]
        digests.append(driver.finish().classes[0].digest)
        assert digests[-1] == max(table.digest for table in tables)
    assert digests[0] == digests[1]


def test_an_unguarded_table_is_guarded_not_tuned() -> None:
    """A table that was published unguarded goes through GUARDING alone and is then published everywhere."""
    driver = Driver()
    driver.store(1, 7, guarded=False)
    report = driver.finish()
    assert report.ready
    assert driver.asked("tune") == []
    assert set(driver.asked("guard")) == {2}
    assert driver.asked("pack") == [2]
    assert sorted(driver.asked("install")) == [0, 2]
    assert report.classes[0].guard.state == "guarded"


def test_an_unguarded_table_is_served_when_the_guard_is_off() -> None:
    """With `guard.enabled: false` an unguarded table is a plain hit."""
    driver = Driver(sections=NO_GUARD)
    driver.store(0, 7, guarded=False)
    driver.store(1, 7, guarded=False)
    report = driver.finish()
    assert report.ready
    assert driver.asked("guard") == driver.asked("pack") == []
    assert report.classes[0].guard.state == "unguarded"


def test_an_unguarded_table_without_timings_is_not_lost() -> None:
    """Without its measurements nothing can be guarded: the table is served as it is, with a warning."""
    driver = Driver()
    table = driver.store(0, 7, guarded=False)
    table.results = ()
    report = driver.finish()
    assert report.ready
    assert report.classes[0].digest == table.digest
    assert any("unguarded and lacks its timings" in warning for warning in report.warnings)


def test_retune_ignores_tables_and_finished_tasks() -> None:
    """`--retune` measures everything again and overwrites what was there."""
    driver = Driver(retune=True)
    table = driver.store(0, 7)
    report = driver.finish()
    assert report.ready
    assert len(driver.measured()) == 3
    assert report.classes[0].digest != table.digest
    assert sorted(driver.asked("install")) == [0, 2]


def test_finished_tasks_of_an_earlier_run_are_kept() -> None:
    """What a store has as partial results is not measured again."""
    driver = Driver()
    rows = [make_result("c0t1", "tuned", random.Random(9))]
    driver.world.directory(2).partial[driver.world.classes[0].key] = rows
    report = driver.finish()
    assert sorted(driver.measured()) == ["c0t0", "c0t2"]
    assert (report.classes[0].measured, report.classes[0].reused) == (2, 1)


def test_a_shared_directory_has_one_writer() -> None:
    """Two nodes that see each other's marker write once; two with equal paths and no common marker write twice."""
    shared, separate = Driver(shared=True), Driver()
    assert shared.finish().ready
    assert separate.finish().ready
    assert shared.asked("install") == [0]
    assert sorted(separate.asked("install")) == [0, 2]
    assert shared.machine.run.ranks[0].place[1] == separate.machine.run.ranks[2].place[1]


def test_a_node_beside_the_writer_fills_its_own_caches() -> None:
    """Of nodes that share a directory one installs, and the others then put the compiled part into their own caches;

    one that cannot is warned of and compiles for itself.
    """
    driver, separate = Driver(nodes=3, shared=True), Driver(nodes=3)
    driver.until(Phase.INSTALLING)
    before = len(driver.asked("survey"))
    driver.answer(driver.in_flight("install")[0])
    assert driver.asked("survey")[before:] == [2, 4]
    driver.fails(driver.in_flight("survey", rank=4)[0], "OSError", "planted")
    report = driver.finish()
    assert report.ready
    assert any("planted; its node compiles for itself" in warning for warning in report.warnings)
    assert separate.finish().ready
    assert sorted(separate.asked("survey")) == [0, 2, 4]


def test_two_classes_have_their_own_leader_and_table() -> None:
    """Nodes with another GPU form a class: its own leader, its own digest, and a warning that names the part."""
    driver = Driver(classes=2)
    report = driver.finish()
    assert report.ready
    assert [c.leader for c in report.classes] == [0, 2]
    assert report.classes[0].digest != report.classes[1].digest
    assert {call.rank for call in driver.log if getattr(call, "task_id", None) in ("c1t0", "c1t1", "c1t2")} == {2}
    (warning,) = [w for w in report.warnings if "class of their own" in w]
    assert "gpu: 'GPU 0' and 'GPU 1'" in warning
    assert "measures its 3 tasks once more" in warning


def test_nothing_to_tune_is_ready_on_defaults() -> None:
    """A class without tunable tasks loads nothing, replays, warns and is ready with a null digest."""
    driver = Driver(tasks=0)
    report = driver.finish()
    assert report.ready
    assert driver.asked("load") == driver.asked("install") == []
    assert sorted(driver.asked("replay")) == [0, 1, 2, 3]
    assert report.classes[0].digest is None
    assert any("nothing was tuned (no tunable op)" in w for w in report.warnings)


def test_tasks_without_valid_tactic_are_ready_on_defaults() -> None:
    """Where no task has a valid tactic the warning says how many there were."""
    report = Driver(outcome="no_valid_tactic").finish()
    assert report.ready
    assert any("none of 3 tasks has a valid tactic" in w for w in report.warnings)
    assert sum("keeps the default tactic: no tactic ran" in w for w in report.warnings) == 3
    assert (report.classes[0].kept, report.classes[0].dropped) == (0, 3)


def test_non_persistent_mode_reads_and_writes_no_store() -> None:
    """With `cache.persistent: false` nothing is looked up or installed; every rank loads from memory."""
    driver = Driver(sections={"cache": {"persistent": False}})
    driver.store(0, 7)
    assert driver.finish().ready
    assert driver.asked("look_up") == driver.asked("install") == []
    loads = [c for c in driver.log if getattr(c, "name", "") == "load"]
    assert {c.rank for c in loads} == {0, 1, 2, 3}
    assert all(c.question.header == driver.rank_class().header for c in loads)  # type: ignore[union-attr]


def test_independent_ranks_tune_for_themselves() -> None:
    """Under `independent` every rank measures every task, digests differ, the run is ready and warns."""
    driver = Driver(strategy="independent")
    report = driver.finish()
    assert report.ready
    assert len(driver.measured()) == 12
    assert len({rank.digest for rank in report.ranks}) == 4
    assert driver.asked("look_up") == driver.asked("install") == []
    assert any("digests may differ" in w for w in report.warnings)


def test_sharded_tasks_are_disjoint_and_merged() -> None:
    """Under `sharded` several ranks measure, each task once; one rank packs all of them."""
    driver = Driver(strategy="sharded", tasks=8)
    report = driver.finish()
    assert report.ready
    assert len(set(driver.asked("tune"))) > 1
    assert sorted(driver.measured()) == sorted(f"c0t{n}" for n in range(8))
    assert driver.asked("pack") == [0]
    assert len(report.classes[0].parts) > 0
    assert len({rank.digest for rank in report.ranks}) == 1


def test_o0_probes_and_warms_and_is_ready() -> None:
    """With tuning off ranks are probed and asked for their engine warmups; with those off, too, for nothing more."""
    driver = Driver(sections={"autotune": {"optimization_level": "O0"}})
    report = driver.finish()
    assert report.ready
    assert set(methods(driver)) == {"probe", "replay", "warm", "confirm"}
    assert list(report.phases) == ["PROBING", "REPLAYING"]
    driver = Driver(sections={"autotune": {"optimization_level": "O0"}, "engine": {"enabled": False}})
    assert driver.finish().ready
    assert set(methods(driver)) == {"probe"}


def test_a_degraded_node_loads_from_memory() -> None:
    """A node whose disk refuses the files warns, and its ranks alone load from memory."""
    driver = Driver(sections=ANY_DISK)
    driver.world.directory(2).is_read_only = True
    report = driver.finish()
    assert report.ready
    sources = {c.rank: c.question.header for c in driver.log if getattr(c, "name", "") == "load"}  # type: ignore[union-attr]
    assert sources == {0: None, 1: None, 2: driver.rank_class().header, 3: driver.rank_class().header}
    assert any("Read-only file system; its ranks load from memory" in w for w in report.warnings)


def test_a_hit_without_a_file_is_pushed_and_loaded_from_memory() -> None:
    """A node whose table is found but cannot be put where ranks load it gets it pushed, and degrades to memory."""
    driver = Driver(sections=ANY_DISK)
    driver.store(0, 7)
    driver.store(1, 7)
    driver.world.directory(2).is_read_only = True
    driver.changes["look_up", 2] = {"on_disk": False}
    report = driver.finish()
    assert report.ready
    assert report.classes[0].measured == 0
    assert driver.asked("install") == [2]
    sources = {c.rank: c.question.header for c in driver.log if getattr(c, "name", "") == "load"}  # type: ignore[union-attr]
    assert [rank for rank, artifact in sources.items() if artifact] == [2, 3]


def test_collisions_are_named() -> None:
    """An op in which two winners share one file key is named in a warning."""
    driver = Driver()
    driver.changes["pack", 0] = {"collisions": ("fp4_gemm",)}
    assert any("op fp4_gemm: two winners share one file key" in w for w in driver.finish().warnings)


def methods(driver: Driver) -> list[str]:
    """Everything that was asked for."""
    return [name_of(command) for command in driver.log]
