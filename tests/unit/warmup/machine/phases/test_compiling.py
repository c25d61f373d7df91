"""COMPILING: one node of a class builds, the others take its modules; whoever dies or refuses, everybody has them."""

from __future__ import annotations

import pytest

from ray_warmup.warmup.machine.commands import Adopt, Call
from ray_warmup.warmup.machine.failures.policy import FailurePolicy
from ray_warmup.warmup.machine.state.phase import Phase
from tests.unit.warmup.machine.driver import Driver, name_of

MODULES = ("gemm", "norm")


def compiling(**options: object) -> Driver:
    """Three nodes of two ranks that lack both modules, at the survey."""
    return Driver(**{"nodes": 3, "modules": MODULES, **options}).until(Phase.COMPILING)  # type: ignore[arg-type]


def slowly(**options: object) -> Driver:
    """As `compiling`, with three modules of which one is finished at a time."""
    driver = compiling(**{"modules": ("gemm", "norm", "rope"), **options})
    driver.world.build_at_once = 1
    return driver


def until(driver: Driver, method: str, nth: int = 1) -> Call | Adopt:
    """Answer everything until a method is in flight for the nth time; that call."""
    while not (driver.in_flight(method) and len(driver.asked(method)) >= nth):
        driver.answer(next(iter(driver.flying.values())))
    return driver.in_flight(method)[0]


def answer_all(driver: Driver, method: str) -> None:
    """Answer every call of a method that is in flight."""
    for call in driver.in_flight(method):
        driver.answer(call)


def test_one_node_builds_and_the_others_take() -> None:
    """The leader's node builds once, one rank of each other node takes it, every rank there uses it before TUNING."""
    driver = compiling()
    driver.until(Phase.TUNING)
    assert driver.asked("survey") == [0, 2, 4]
    assert (driver.asked("compile"), driver.asked("pack_modules"), driver.asked("adopt")) == ([0], [0], [0])
    assert driver.asked("install_modules") == [2, 4]
    assert driver.asked("activate_modules") == [3, 5]
    assert [driver.world.lacks(process) for process in driver.world.processes.values()] == [[]] * 6
    assert driver.finish().ready


def tuning_nodes(driver: Driver, phase: Phase) -> list[int]:
    """Ranks that are surveyed in a phase and are told that their node will measure."""
    return [
        call.rank for call in driver.until(phase).in_flight("survey") if isinstance(call, Call) and call.question.tunes
    ]


def test_only_nodes_that_will_measure_are_told_so() -> None:
    """The leader's alone or all of them, by strategy; none on a hit, nor where a lost node leaves nothing to do."""
    assert tuning_nodes(Driver(nodes=3), Phase.COMPILING) == [0]
    assert tuning_nodes(Driver(nodes=3, strategy="sharded"), Phase.COMPILING) == [0, 2, 4]
    hit = Driver(nodes=3, strategy="sharded")
    hit.store(1, 1)
    assert tuning_nodes(hit, Phase.COMPILING) == []
    lost = Driver(nodes=3, strategy="sharded", sections={"cluster": {"on_node_loss": "shrink"}}).until(Phase.INSTALLING)
    lost.lose_node("node2")
    assert tuning_nodes(lost, Phase.COMPILING) == []
    assert lost.asked("survey") == [0, 2, 4, 0, 2]


def test_a_node_that_has_them_hands_over_without_building() -> None:
    """Nobody compiles where a node has every module already, be it the leader's or not."""
    driver = compiling()
    driver.world.workspaces["node2"] = set(MODULES)
    assert driver.finish().ready
    assert driver.asked("compile") == []
    assert (driver.asked("pack_modules"), driver.asked("install_modules")) == ([4], [0, 2])


def test_the_node_that_lacks_least_builds_the_rest() -> None:
    """A node with half of the modules finishes them; an equal one is preferred where the leader is."""
    driver = compiling()
    driver.world.workspaces["node1"] = {"gemm"}
    assert driver.finish().ready
    assert driver.asked("compile") == [2]


def test_nothing_missing_is_one_question_per_node() -> None:
    """Where nothing is to be built nothing is handed over either."""
    driver = Driver(nodes=3).until(Phase.TUNING)
    assert driver.asked("survey") == [0, 2, 4]
    assert not {"compile", "pack_modules", "adopt", "install_modules", "activate_modules"} & {
        c.name for c in driver.log if hasattr(c, "name")
    }


def test_modules_of_an_earlier_run_are_used_by_every_rank() -> None:
    """What the survey finds installed is used by the node's other ranks, and not built."""
    driver = compiling()
    for node in range(3):
        driver.world.directory(2 * node).modules = {driver.rank_class().key: set(MODULES)}
    assert driver.finish().ready
    assert (driver.asked("compile"), driver.asked("install_modules"), driver.asked("activate_modules")) == (
        [],
        [],
        [1, 3, 5],
    )


def test_a_dead_builder_is_followed_on_its_node() -> None:
    """The other rank of the builder's node looks what is finished and goes on; no other node begins to build."""
    driver = compiling()
    answer_all(driver, "survey")
    driver.kill(0)
    driver.world.workspaces["node0"].add("gemm")  # finished, and not told
    assert driver.in_flight("survey", rank=1)
    assert until(driver, "compile", nth=2).rank == 1
    assert driver.rank_class().modules.held == {"gemm"}
    assert driver.finish().ready
    assert {driver.world.infos[rank].node_id for rank in driver.asked("compile")} == {"node0"}


def test_a_builder_without_neighbours_is_followed_by_its_replacement() -> None:
    """On a node with one rank the fresh process surveys again and builds what is left."""
    driver = compiling(per_node=1)
    answer_all(driver, "survey")
    driver.kill(0)
    assert not driver.flying
    driver.bring_back()
    assert driver.finish().ready
    assert driver.asked("compile") == [0, 0]


def test_modules_are_packed_again_when_the_packer_dies() -> None:
    """A packer that dies before its blobs were adopted is followed by another; afterwards its death changes nothing."""
    driver = compiling()
    for method in ("survey", "compile", "pack_modules"):
        answer_all(driver, method)
    assert driver.in_flight("adopt", rank=0)
    driver.kill(0)
    assert driver.in_flight("pack_modules", rank=1)
    for method in ("pack_modules", "adopt"):
        answer_all(driver, method)
    driver.kill(1)
    assert [call.rank for call in driver.in_flight("install_modules")] == [2, 4]
    assert driver.finish().ready


@pytest.mark.parametrize("method", ["pack_modules", "adopt", "install_modules"])
def test_who_gets_no_modules_builds_them(method: str) -> None:
    """Trouble on the way costs the nodes that wait for it their own build and a warning, never the run."""
    driver = compiling()
    while not driver.in_flight(method):
        driver.answer(next(iter(driver.flying.values())))
    call = driver.in_flight(method)[0]
    driver.fails(call, "CorruptArtifactError", "blob does not match its digest")
    report = driver.finish()
    assert report.ready
    assert set(driver.asked("compile")) == ({0, 2} if method == "install_modules" else {0, 2, 4})
    assert [w for w in report.warnings if "does not match its digest" in w and "itself" in w]


@pytest.mark.parametrize("method", ["pack_modules", "install_modules"])
def test_a_dead_context_is_a_death_and_never_trouble_on_the_way(method: str) -> None:
    """When a rank's last process loses its context on the way, it is asked for nothing more: the run fails by name."""
    driver = compiling()
    while not driver.in_flight(method):
        driver.answer(next(iter(driver.flying.values())))
    call = driver.in_flight(method)[0]
    state = driver.machine.run.ranks[call.rank]
    state.restarts = FailurePolicy().max_restarts_per_rank
    asked = len(driver.log)
    driver.fails(call, "DeadContextError", "illegal address")
    assert [c for c in driver.log[asked:] if c.rank == call.rank] == []
    report = driver.finish()
    assert not report.ready
    assert f"rank {call.rank} " in (report.error or "")
    assert "illegal address" in (report.error or "")


def test_nodes_that_cannot_install_build_for_themselves() -> None:
    """A store that cannot be written, or modules that cannot be shipped, lead to builds where they are missing."""
    driver = compiling(sections={"cache": {"require_disk": False}})
    driver.world.directory(2).is_read_only = True
    assert driver.finish().ready
    assert driver.asked("compile") == [0, 2]
    other = compiling()
    other.world.ships_modules = False
    assert other.finish().ready
    assert sorted(other.asked("compile")) == [0, 2, 4]


def test_without_files_every_node_builds() -> None:
    """In memory mode nothing can be installed, so all nodes build at once."""
    driver = compiling(sections={"cache": {"persistent": False}})
    answer_all(driver, "survey")
    assert [call.rank for call in driver.in_flight("compile")] == [0, 2, 4]
    assert driver.finish().ready


def test_a_replacement_is_told_of_its_nodes_modules() -> None:
    """A process that is replaced while its class tunes uses what its node took, from its first call on."""
    driver = compiling(strategy="sharded").until(Phase.TUNING)
    driver.kill(3)
    driver.bring_back()
    (call,) = driver.in_flight("probe")
    assert call.question.modules == driver.rank_class().modules.in_use["node1"]  # type: ignore[union-attr]
    assert driver.finish().ready


def test_a_module_that_does_not_build_fails_the_run() -> None:
    """A compiler error is a fact about the work and is named."""
    driver = compiling()
    answer_all(driver, "survey")
    (call,) = driver.in_flight("compile")
    driver.fails(call, "CompileError", "module gemm did not build")
    driver.tick(1.0)
    assert driver.phase is Phase.FAILED
    assert "module gemm did not build" in str(driver.report.error)


def test_each_class_has_a_builder_of_its_own() -> None:
    """Two classes on two nodes each: one node of each builds."""
    driver = compiling(nodes=4, classes=2)
    assert driver.finish().ready
    assert sorted(driver.asked("compile")) == [0, 2]
    assert sorted(driver.asked("install_modules")) == [4, 6]


@pytest.mark.parametrize("has_modules", [True, False])
def test_a_found_artifact_that_lacked_modules_is_renewed_everywhere(has_modules: bool) -> None:
    """On a hit that all nodes hold nothing is pushed, unless modules had to be built: they join it on every node."""
    driver = Driver(nodes=2, modules=MODULES)
    for node in range(2):
        driver.store(node, 1)
        if has_modules:
            driver.world.workspaces[f"node{node}"] = set(MODULES)
    report = driver.finish()
    assert report.ready
    assert report.classes[0].hit
    renewed = [c.question.renew for c in driver.log if isinstance(c, Call) and c.name == "pack_stored"]
    assert renewed == ([] if has_modules else [True])
    assert driver.asked("install") == ([] if has_modules else [0, 2])
    assert driver.asked("tune") == driver.asked("guard") == []


def test_each_finished_module_is_handed_over_at_once() -> None:
    """What is finished is with the coordinator before the next step is asked for; the others take all at the end."""
    driver = slowly(nodes=2)
    assert driver.finish().ready
    asked = [name_of(command) for command in driver.log]
    steps = asked[asked.index("survey") + 2 : asked.index("activate_modules")]
    assert steps == [*["compile", "pack_modules", "adopt"] * 3, "install_modules"]
    offers = [len(c.digests) for c in driver.log if isinstance(c, Adopt)][:3]
    assert offers == [1, 2, 3]
    assert driver.rank_class().modules.built == {0: ("gemm", "norm", "rope")}


@pytest.mark.parametrize("policy", ["shrink", "replace"])
def test_a_lost_node_is_followed_with_what_it_had_finished(policy: str) -> None:
    """The next node takes the module that was handed over and builds the rest only."""
    driver = slowly(nodes=3, sections={"cluster": {"on_node_loss": policy}})
    until(driver, "compile", nth=2)
    driver.lose_node("node0")
    assert driver.finish().ready
    (rank_class,) = driver.machine.run.classes.values()
    assert sorted(name for names in rank_class.modules.built.values() for name in names) == ["gemm", "norm", "rope"]
    after = [name_of(c) for c in driver.log if name_of(c) in ("install_modules", "compile")][2:]
    assert after[:3] == ["install_modules", "compile", "compile"]


def test_ranks_that_move_find_what_their_node_had_finished() -> None:
    """With one node alone nobody waits for its modules, but where its ranks may move they are handed over too."""
    driver = slowly(nodes=1, sections={"cluster": {"on_node_loss": "replace"}})
    until(driver, "compile", nth=2)
    driver.lose_node("node0")
    assert driver.finish().ready
    assert driver.asked("install_modules") == [0]
    assert sorted(driver.rank_class().modules.built[0]) == ["gemm", "norm", "rope"]


def test_a_single_node_that_cannot_move_hands_nothing_over() -> None:
    """Where nobody could ever take modules they are not packed."""
    driver = slowly(nodes=1)
    assert driver.finish().ready
    assert driver.asked("pack_modules") == driver.asked("install_modules") == []


def test_a_build_stays_with_the_process_that_began_it() -> None:
    """When another node is lost meanwhile the run goes back, and the same rank goes on, with nothing begun again."""
    driver = slowly(nodes=3, sections={"cluster": {"on_node_loss": "shrink"}})
    until(driver, "compile", nth=2)
    driver.lose_node("node2")
    assert driver.finish().ready
    assert driver.rank_class().modules.built == {0: ("gemm", "norm", "rope")}
    assert set(driver.asked("compile")) == {0}


def test_a_builder_that_dies_between_two_steps_is_followed() -> None:
    """What it had begun died with it: its node is looked at again, and the rest is built there, by whoever is there."""
    driver = slowly()
    call = until(driver, "pack_modules")
    driver.kill(call.rank)
    assert driver.in_flight("survey", rank=1)
    assert driver.finish().ready
    built = driver.rank_class().modules.built
    assert sorted(name for rank in (0, 1) for name in built.get(rank, ())) == ["gemm", "norm", "rope"]
    assert set(driver.asked("install_modules")) == {2, 4}


def test_what_is_held_is_taken_when_nothing_more_can_be_handed_over() -> None:
    """Trouble with the second module costs the other nodes the build of the second and third, not of the first."""
    driver = slowly()
    driver.fails(until(driver, "pack_modules", nth=2), "CorruptArtifactError", "norm.so is not complete")
    assert driver.finish().ready
    built = driver.rank_class().modules.built
    assert (built[2], built[4]) == (("norm", "rope"), ("norm", "rope"))


def test_a_node_that_lacks_what_another_has_gets_it_while_that_one_builds() -> None:
    """Nobody waits for modules that he does not lack."""
    driver = slowly(nodes=2)
    driver.world.workspaces["node0"] = {"gemm", "norm"}
    driver.world.workspaces["node1"] = {"norm", "rope"}
    until(driver, "install_modules")
    assert driver.rank_class().modules.held == {"gemm", "norm"}
    assert driver.in_flight("compile", rank=0)
    assert driver.finish().ready
