"""Leases, knowledge and memory of the registry, without Ray."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from ray_warmup.warmup.registry.byte_budget import ByteBudget
from ray_warmup.warmup.registry.finished_work import FinishedWork
from ray_warmup.warmup.registry.known_artifacts import KnownArtifacts
from ray_warmup.warmup.registry.lease_book import LeaseBook
from ray_warmup.warmup.registry.values import ArtifactFacts, Asker, Lead, Wait
from ray_warmup.warmup.tasks import TaskResult

ASKERS = [Asker(f"node-{number % 3}", number) for number in range(64)]


def lead(book: LeaseBook, asker: Asker, now: float = 0.0) -> Lead:
    """Ask and expect the lease."""
    answer = book.ask("k", asker, now)
    assert isinstance(answer, Lead)
    return answer


def test_of_many_askers_one_leads() -> None:
    """All others are told who it is, how long, and how far."""
    book = LeaseBook(10.0)
    answers = [book.ask("k", asker, 0.0) for asker in ASKERS]
    assert [type(answer) for answer in answers] == [Lead] + [Wait] * 63
    assert isinstance(answers[0], Lead)
    assert book.beat("k", answers[0].token, ASKERS[0], "12 of 31 tasks", 4.0)
    assert book.ask("k", ASKERS[5], 5.0) == Wait(ASKERS[0], 5.0, "12 of 31 tasks")
    assert isinstance(book.ask("another", ASKERS[5], 5.0), Lead)


def test_an_answer_that_got_lost_is_given_again() -> None:
    """The holder asks a second time and gets the same lease."""
    book = LeaseBook(10.0)
    assert lead(book, ASKERS[0]) == lead(book, ASKERS[0], 3.0)


def test_a_silent_holder_loses_its_lease_to_the_next_asker_only() -> None:
    """After the silence the next one leads; the first one's signs of life and its end change nothing then."""
    book = LeaseBook(10.0)
    first = lead(book, ASKERS[0])
    assert isinstance(book.ask("k", ASKERS[1], 9.0), Wait)
    second = lead(book, ASKERS[1], 11.0)
    assert second.token != first.token
    assert not book.beat("k", first.token, ASKERS[0], "", 12.0)
    book.end("k", first.token)
    assert book.holder("k", 12.0) == Wait(ASKERS[1], 1.0, "")


def test_a_holder_that_only_stumbled_keeps_its_lease() -> None:
    """Nobody asked meanwhile."""
    book = LeaseBook(10.0)
    token = lead(book, ASKERS[0]).token
    assert book.beat("k", token, ASKERS[0], "on", 60.0)
    assert isinstance(book.ask("k", ASKERS[1], 61.0), Wait)


def test_a_holder_outlives_the_registry() -> None:
    """A book that knows nothing takes the lease over from its holder's sign of life."""
    book = LeaseBook(10.0)
    assert book.beat("k", "token-from-before", ASKERS[0], "half", 0.0)
    assert book.ask("k", ASKERS[1], 1.0) == Wait(ASKERS[0], 1.0, "half")
    assert not book.beat("k", "another-token", ASKERS[2], "", 1.0)


def test_a_registry_that_was_stopped_blames_nobody() -> None:
    """It heard nobody for 30 s: a holder keeps its lease for another silence, unless it was silent before."""
    book = LeaseBook(10.0)
    lead(book, ASKERS[0])
    assert isinstance(book.ask("late", ASKERS[2], 0.0), Lead)
    for now in range(9):
        book.listen(float(now))
    assert book.beat("k", lead(book, ASKERS[0], 8.0).token, ASKERS[0], "", 8.0)
    book.listen(12.0)
    book.listen(42.0)
    assert isinstance(book.ask("k", ASKERS[1], 42.0), Wait)
    assert isinstance(book.ask("late", ASKERS[1], 42.0), Lead)
    for now in range(43, 53):
        book.listen(float(now))
    assert isinstance(book.ask("k", ASKERS[1], 52.5), Lead)


def test_a_lost_node_frees_its_leases() -> None:
    """At once, without a silence."""
    book = LeaseBook(10.0)
    lead(book, ASKERS[0])
    assert book.forget_node("node-0") == ("k",)
    assert isinstance(book.ask("k", ASKERS[1], 0.1), Lead)


@pytest.mark.parametrize("seed", range(20))
def test_never_two_live_leases_of_one_key(seed: int) -> None:
    """Random askers, silences and ends: whoever is confirmed alive is the only one."""
    luck, book, held, now = random.Random(seed), LeaseBook(5.0), {}, 0.0
    for _ in range(500):
        now += luck.random() * 2
        asker = luck.choice(ASKERS)
        answer = book.ask("k", asker, now)
        if isinstance(answer, Lead):
            held[asker] = answer.token
        alive = [who for who, token in held.items() if book.beat("k", token, who, "", now)]
        assert len(alive) <= 1
        held = {who: held[who] for who in alive if luck.random() < 0.8}


def facts(digest: str, depth: int = 0, created_at: float = 0.0) -> ArtifactFacts:
    """An artifact of the key `k`."""
    return ArtifactFacts("k", digest, depth, created_at, 10)


def test_the_newest_artifact_of_a_key_is_known_with_its_nodes() -> None:
    """Lineage first, then time; an older one changes nothing; a lost node holds nothing."""
    known = KnownArtifacts()
    assert known.learn(facts("a", 0, 5.0), "n1")
    assert known.learn(facts("b", 1, 1.0), "n2")
    assert not known.learn(facts("a", 0, 9.0), "n3")
    assert known.learn(facts("b", 1, 1.0), "n4")
    assert (known.newest("k"), known.nodes_with("k")) == (facts("b", 1, 1.0), ("n2", "n4"))
    known.forget_node("n2")
    known.lose("k", "n4")
    assert known.nodes_with("k") == ()
    known.forget("k")
    assert known.newest("k") is None


def test_bytes_that_a_disk_holds_go_first() -> None:
    """The budget holds; what is nowhere else stays longest, and the newcomer always stays."""
    budget = ByteBudget(100)
    assert budget.add("only here", 60, frozenset()) == ()
    assert budget.add("on a disk", 30, frozenset({"on a disk"})) == ()
    assert budget.add("new", 40, frozenset({"on a disk"})) == ("on a disk",)
    assert budget.used == 100
    assert budget.add("huge", 500, frozenset()) == ("only here", "new")
    assert budget.used == 500
    budget.drop("huge")
    assert budget.used == 0


def test_the_least_used_of_equals_goes() -> None:
    """A use counts."""
    budget, disk = ByteBudget(100), frozenset({"a", "b"})
    budget.add("a", 50, disk)
    budget.add("b", 50, disk)
    budget.touch("a")
    assert budget.add("c", 10, disk) == ("b",)


def result(task_id: str, seconds: float = 1.0) -> TaskResult:
    """A finished task."""
    return TaskResult(task_id, "gemm", 8, "default", None, "Runner", elapsed_s=seconds)


def test_finished_work_is_kept_for_the_next_leader() -> None:
    """Each task once, the last result counts; an artifact that is known ends it."""
    work = FinishedWork()
    work.keep("k", [result("a"), result("b")])
    work.keep("k", [result("b", 2.0), result("c")])
    work.keep("another", [result("d")])
    assert [(row.task_id, row.elapsed_s) for row in work.of("k")] == [("a", 1.0), ("b", 2.0), ("c", 1.0)]
    work.forget("k")
    assert (work.of("k"), len(work.of("another"))) == ((), 1)


def test_only_a_living_holder_is_believed() -> None:
    """Whoever lost its lease hands nothing over any more."""
    book = LeaseBook(10.0)
    token = lead(book, ASKERS[0]).token
    assert book.is_held("k", token, 5.0)
    assert not book.is_held("k", "another-token", 5.0)
    assert not book.is_held("k", token, 11.0)


def test_what_nobody_has_proven_is_never_the_newest() -> None:
    """It is known with its node, and handed out once that node tells of its proof."""
    known, left = KnownArtifacts(), replace(facts("b", 0, 9.0), is_proven=False)
    assert not known.learn(left, "n1")
    assert (known.newest("k"), known.unproven_on("k"), tuple(known.keys())) == (None, ("n1",), ("k",))
    assert known.learn(facts("a", 0, 1.0), "n2")
    assert known.newest("k") == facts("a", 0, 1.0)
    assert known.learn(facts("b", 0, 9.0), "n1")
    assert (known.newest("k"), known.unproven_on("k")) == (facts("b", 0, 9.0), ())
    known.learn(left, "n3")
    known.forget_node("n3")
    assert known.unproven_on("k") == ()
