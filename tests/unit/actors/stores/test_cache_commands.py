"""Cache commands on every node: who is asked, what the answers say together, when a rollback must not begin."""

from __future__ import annotations

from typing import Any

import pytest

from ray_warmup.actors.cluster.membership import Node
from ray_warmup.actors.stores import cache_commands
from ray_warmup.actors.stores.cache_commands import NodeAnswer, combine, nodes_for, objection, perform_everywhere
from ray_warmup.configs import load_config
from ray_warmup.warmup.cache_admin.requests import CacheAnswer, CacheRequest
from ray_warmup.warmup.cache_admin.store_changes import Rollback
from ray_warmup.warmup.cache_admin.store_inspection import Explanation
from ray_warmup.warmup.cache_admin.store_verification import Verification

A, B, HEAD = "a" * 56, "b" * 56, "c" * 56
NODES = tuple(Node(name, "127.0.0.1", {"CPU": cpus}, {}) for name, cpus in ((A, 2.0), (B, 2.0), (HEAD, 0.0)))
Asked = list[tuple[str, str, CacheRequest]]


def planned(node: str, new: int, table: str, key: str = "k") -> NodeAnswer:
    """What a node says that a rollback would do."""
    return NodeAnswer(node, "", True, Rollback("p", key, 9, new, table))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Three nodes that answer a rollback: two store the key, under other numbers, the head nothing."""
    calls: Asked = []

    def ask_nodes(function: Any, arguments: dict[str, tuple[Any, ...]], timeout_s: float) -> Any:
        answers = {}
        for node_id, (command, given) in arguments.items():
            calls.append((node_id, command, given))
            new = given.generation or (3 if node_id == A else 5)
            result = None if node_id == HEAD else planned(node_id, new, "same").result
            answers[node_id] = CacheAnswer(command, True, result)
        return answers, {}

    monkeypatch.setattr(cache_commands, "ask_nodes", ask_nodes)
    monkeypatch.setattr(cache_commands.membership, "members", lambda: NODES)
    return calls


def test_a_rollback_is_planned_first_and_then_asked_for_by_number(asked: Asked) -> None:
    """Every node plans; those that store the key are then told their own generation, so a shared directory goes back
    once."""
    done = perform_everywhere("rollback", CacheRequest(), 1.0)

    assert [given.plan for _, _, given in asked[:3]] == [True] * 3
    assert [(node, given.key, given.generation) for node, _, given in asked[3:]] == [(A, "k", 3), (B, "k", 5)]
    assert all(not given.plan for _, _, given in asked[3:])
    assert (done.ok, [row.node_id for row in done.nodes], done.nodes[2].result) == (True, [A, B, HEAD], None)


def test_a_rollback_does_not_begin_where_nodes_would_disagree() -> None:
    """Two tables of one key, a node that failed, or nothing stored anywhere stop it; two keys with a table each do
    not."""
    apart = objection([planned(A, 3, "x"), planned(B, 5, "y")])
    assert all(word in apart for word in ("nothing was changed", "aaaaaaaa generation 3", "bbbbbbbb generation 5"))
    assert "gone" in objection([planned(A, 3, "x"), NodeAnswer(B, "", False, error="gone")])
    assert "no node stores" in objection([NodeAnswer(A, "", True)])
    assert objection([planned(A, 3, "x"), planned(B, 5, "x"), NodeAnswer(HEAD, "", True)]) == ""
    assert objection([planned(A, 3, "x", "one"), planned(B, 5, "y", "other")]) == ""


def test_a_config_names_the_nodes_that_count(asked: Asked) -> None:
    """With a config a node that could hold no rank of it is not asked; without one every node is."""
    config = load_config("cpu_two_nodes")
    assert [node.node_id for node in nodes_for(config, NODES)] == [A, B]
    perform_everywhere("ls", CacheRequest(), 1.0, config)
    assert [node for node, _, _ in asked] == [A, B]
    perform_everywhere("ls", CacheRequest(), 1.0)
    assert [node for node, _, _ in asked[2:]] == [A, B, HEAD]


def test_no_node_for_a_config_is_said(asked: Asked) -> None:
    """A cluster without room for one rank is an answer that is not well, and nobody is asked."""
    answer = perform_everywhere("ls", CacheRequest(), 1.0, load_config("cpu_two_nodes", ["cluster.cpus_per_rank=64"]))
    assert (answer.ok, asked) == (False, [])
    assert "could hold a rank" in answer.error


def test_one_bad_node_makes_the_answer_bad_and_hides_no_other() -> None:
    """All nodes' answers stay; the whole is well only when each is, and errors are told together."""
    fine, bad = NodeAnswer(A, "", True, ()), NodeAnswer(B, "", False, error="node bbbbbbbb: late")
    answer = combine("ls", [fine, bad])

    assert (answer.ok, answer.error, answer.nodes) == (False, "node bbbbbbbb: late", (fine, bad))
    assert combine("verify", [fine]).ok
    assert not combine("verify", [NodeAnswer(A, "", False, (Verification("p", 1, 1, 1, ("x",)),))]).ok


def test_a_node_without_an_answer_is_named_with_the_setting() -> None:
    """A late node's row has its name, the deadline and the option that changes it."""
    row = cache_commands._answer(NODES[0], None, "node aaaaaaaa did not answer within 2 s")
    assert (row.ok, row.error) == (False, "node aaaaaaaa did not answer within 2 s (--timeout)")


def served(node: str, table: str, key: str = "k" * 64) -> NodeAnswer:
    """What a node says of one store."""
    return NodeAnswer(node, "", True, (Verification("p", 1, 1, 1, (), key_sha256=key, table=table),))


def explained(stores: tuple[Verification, ...] | None) -> Explanation | None:
    """The same store, as `explain` tells of it."""
    if stores is None:
        return None
    return Explanation("p", True, "", (), key_sha256=stores[0].key_sha256, table=stores[0].table)


@pytest.mark.parametrize("command", ["ls", "verify", "explain"])
def test_nodes_that_serve_different_tables_are_told(command: str) -> None:
    """One key with two tables makes the whole answer bad and names both sides; other keys and empty nodes do not."""
    rows = [served(A, "x" * 64), served(B, "y" * 64), NodeAnswer(HEAD, "", True)]
    if command == "explain":
        rows = [NodeAnswer(row.node_id, "", True, explained(row.result)) for row in rows]
    apart = combine(command, rows)

    assert not apart.ok
    assert all(word in apart.error for word in ("kkkkkkkkkkkk", "xxxxxxxxxxxx: aaaaaaaa", "yyyyyyyyyyyy: bbbbbbbb"))
    assert combine(command, [served(A, "x" * 64), served(B, "x" * 64)]).ok
    assert combine(command, [served(A, "x" * 64), served(B, "y" * 64, "o" * 64)]).ok
    assert combine(command, [served(A, "x" * 64), served(B, "")]).ok


def test_a_rollback_that_must_not_begin_says_nothing_of_what_it_would_have_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A plan is no deed: where nothing was changed there are no rows."""

    def ask_nodes(function: Any, arguments: dict[str, tuple[Any, ...]], timeout_s: float) -> Any:
        assert all(given.plan for _, given in arguments.values())
        rows = {A: planned(A, 2, "x").result, B: planned(B, 1, "y").result, HEAD: None}
        return {n: CacheAnswer("rollback", True, rows[n]) for n in arguments}, {}

    monkeypatch.setattr(cache_commands, "ask_nodes", ask_nodes)
    monkeypatch.setattr(cache_commands.membership, "members", lambda: NODES)
    done = perform_everywhere("rollback", CacheRequest(), 1.0)

    assert (done.ok, done.nodes) == (False, ())
    assert done.error.startswith("nothing was changed")


@pytest.mark.parametrize("returns", [True, False])
def test_a_rollback_that_fails_on_one_node_is_taken_back_on_the_others(
    monkeypatch: pytest.MonkeyPatch, returns: bool
) -> None:
    """All or nothing: who has gone back goes forward again, and only where that fails a row is left."""
    current = {A: 9, B: 9}

    def ask_nodes(function: Any, arguments: dict[str, tuple[Any, ...]], timeout_s: float) -> Any:
        answers: dict[str, Any] = {}
        problems = {}
        for node_id, (_, given) in arguments.items():
            wanted = given.generation or 3
            if node_id == B and not given.plan and wanted == 3:
                problems[B] = "node bbbbbbbb did not answer within 1 s"
                continue
            if node_id == A and wanted == 9 and not returns:
                answers[A] = CacheAnswer("rollback", False, error="the disk is full")
                continue
            if not given.plan and node_id != HEAD:
                current[node_id] = wanted
            result = None if node_id == HEAD else planned(node_id, wanted, "same").result
            answers[node_id] = CacheAnswer("rollback", True, result)
        return answers, problems

    monkeypatch.setattr(cache_commands, "ask_nodes", ask_nodes)
    monkeypatch.setattr(cache_commands.membership, "members", lambda: NODES)
    done = perform_everywhere("rollback", CacheRequest(), 1.0)

    assert (done.ok, current) == (False, {A: 9 if returns else 3, B: 9})
    assert "did not answer" in done.error
    assert done.error.startswith("nothing was changed") is returns
    assert [row.node_id for row in done.nodes] == ([] if returns else [A])
