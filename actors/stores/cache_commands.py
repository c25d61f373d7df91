"""`ray-warmup cache ... --cluster`: one command on every node, each in the directories that its own environment names.

    which nodes         with a config those that could hold a rank of it, else every one that is alive
    ls, verify, explain, diff, prune   one question each
    rollback            planned on every node first; nothing is changed unless all of them would serve one table, and
                        where one fails on the way the others go forward again
    export, import      `archive_moves.py`: one file where the command runs

Re-timing needs a rank's device and stays on one node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from pydantic import JsonValue

from ray_warmup.actors.cluster import membership
from ray_warmup.actors.cluster.membership import Node, ids_of
from ray_warmup.actors.cluster.node_task import ask_nodes
from ray_warmup.actors.placement import capacity
from ray_warmup.actors.stores.archive_moves import export_from, import_to
from ray_warmup.actors.stores.explaining import able, used
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.configs.loader import Request
from ray_warmup.warmup.cache_admin.command import perform
from ray_warmup.warmup.cache_admin.requests import CacheAnswer, CacheRequest, Result, plain
from ray_warmup.warmup.cache_admin.store_changes import Rollback
from ray_warmup.warmup.cache_admin.store_inspection import Explanation, StoreRow
from ray_warmup.warmup.cache_admin.store_verification import Verification

COMMANDS = (
    "ls",
    "verify",
    "explain",
    "diff",
    "prune",
    "rollback",
    "export",
    "import",
    "sign",
    "quarantine ls",
    "quarantine clear",
)
MOVES = {"export": export_from, "import": import_to}
SETTING = "--timeout"


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """One node's answer.

    `result` is the command's own, or None if the node has no such store.
    """

    node_id: str
    address: str
    ok: bool
    result: Result | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class ClusterAnswer:
    """Every asked node's answer, and whether all of it is well."""

    command: str
    ok: bool
    nodes: tuple[NodeAnswer, ...]
    error: str = ""
    """Problem of the answers taken together."""

    def to_json(self) -> dict[str, JsonValue]:
        """Plain JSON values."""
        rows: list[JsonValue] = [
            asdict(replace(row, result=None)) | {"result": plain(row.result)} for row in self.nodes
        ]
        return {"command": self.command, "ok": self.ok, "nodes": rows, "error": self.error}


def perform_everywhere(
    command: str, asked: CacheRequest, timeout_s: float, config: Request | None = None
) -> ClusterAnswer:
    """Run a command on the connected cluster's nodes, or on those that could hold a rank of `config`."""
    assert command in COMMANDS, command
    nodes = sorted(membership.members(), key=lambda node: node.node_id)
    if config is not None:
        is_of_tables = command == "explain" and not isinstance(config, EngineRunConfig)
        choose = nodes_for
        if is_of_tables:
            choose = able
        nodes = choose(config, nodes)
    if not nodes:
        return ClusterAnswer(command, False, (), "no node of this cluster could hold a rank of the config")
    if command in MOVES:
        return combine(command, _answers(nodes, *MOVES[command](nodes, asked, timeout_s)))
    asked = replace(asked, if_present=True)
    if command == "rollback":
        return _rollback(nodes, asked, timeout_s)
    answers = _perform_on(command, nodes, _each(nodes, asked), timeout_s)
    if command == "explain" and config is not None:
        return _explained(config, nodes, answers)
    return combine(command, answers)


def _explained(config: Request, nodes: Sequence[Node], answers: Sequence[NodeAnswer]) -> ClusterAnswer:
    """The answers of the nodes that a run would use."""
    chosen, shortage = used(config, nodes, {answer.node_id for answer in answers if answer.ok})
    needed = ids_of(chosen)
    judged = combine("explain", [answer for answer in answers if answer.node_id in needed])
    others = [text for text in (shortage, *differences(answers)) if text and text not in judged.error]
    if not others:
        return judged
    return replace(judged, ok=False, error="; ".join(filter(None, (judged.error, *others))))


def _rollback(nodes: Sequence[Node], asked: CacheRequest, timeout_s: float) -> ClusterAnswer:
    """Roll every node back and return the rows, or none if nothing was changed."""
    planned = _perform_on("rollback", nodes, _each(nodes, replace(asked, plan=True)), timeout_s)
    problem = objection(planned)
    if problem:
        return ClusterAnswer("rollback", False, (), problem)
    # By number: nodes that share one directory then go back once, not once each.
    plans = plans_of(planned)
    steps = {node_id: replace(asked, key=plan.key, generation=plan.new) for node_id, plan in plans.items()}
    done = {answer.node_id: answer for answer in _perform_on("rollback", nodes, steps, timeout_s)}
    if errors_of(done.values()):
        return _undone(nodes, steps, done, plans, timeout_s)
    return combine("rollback", [done.get(answer.node_id, answer) for answer in planned])


def plans_of(planned: Sequence[NodeAnswer]) -> dict[str, Rollback]:
    """Return the planned rollback of each node that stores the key."""
    return {answer.node_id: answer.result for answer in planned if isinstance(answer.result, Rollback)}


def _undone(
    nodes: Sequence[Node],
    steps: Mapping[str, CacheRequest],
    done: Mapping[str, NodeAnswer],
    plans: Mapping[str, Rollback],
    timeout_s: float,
) -> ClusterAnswer:
    """Return every node to its former generation.

    A node without an answer is asked too, since it may have gone back.
    """
    undo = {node_id: replace(step, generation=plans[node_id].old, force=True) for node_id, step in steps.items()}
    causes = "; ".join(errors_of(done.values()))
    stuck: list[str] = []
    changed: list[NodeAnswer] = []
    for answer in _perform_on("rollback", nodes, undo, timeout_s):
        if answer.error:
            stuck.append(answer.node_id[:8])
            if not done[answer.node_id].error:
                changed.append(done[answer.node_id])
    if not stuck:
        return ClusterAnswer("rollback", False, (), f"nothing was changed: {causes}")
    return ClusterAnswer(
        "rollback",
        False,
        tuple(changed),
        f"{causes}; all were put back but {', '.join(stuck)}: `ray-warmup cache ls` says what is current there",
    )


def errors_of(answers: Iterable[NodeAnswer]) -> list[str]:
    """Return the errors of those nodes that could not answer."""
    return [answer.error for answer in answers if answer.error]


def nodes_for(config: Request, nodes: Sequence[Node]) -> list[Node]:
    """Nodes with room for at least one rank of a config, by what they have in all."""
    return capacity.with_room(config.cluster, nodes)


def combine(command: str, answers: Sequence[NodeAnswer]) -> ClusterAnswer:
    """All answers as one: well when each of them is and no two nodes serve different tables for one key."""
    problems = [*errors_of(answers), *differences(answers)]
    is_well = all(answer.ok for answer in answers) and not problems
    return ClusterAnswer(command, is_well, tuple(answers), "; ".join(problems))


def differences(answers: Sequence[NodeAnswer]) -> tuple[str, ...]:
    """Return a message for each key for which nodes serve different tables."""
    served: dict[str, dict[str, list[str]]] = {}
    for answer in answers:
        for key, table in _tables_in(answer.result):
            served.setdefault(key, {}).setdefault(table, []).append(answer.node_id[:8])
    found = []
    for key, tables in served.items():
        if len(tables) > 1:
            which = f"for key {key[:12]} ({_grouped(tables)})"
            found.append(f"nodes serve different tables {which}: run the warmup again, or roll back")
    return tuple(found)


def _tables_in(result: Result | None) -> Iterator[tuple[str, str]]:
    """Yield the key and the served table of each store in a result."""
    rows: tuple[object, ...] = (result,)
    if isinstance(result, tuple):
        rows = result
    for row in rows:
        if isinstance(row, StoreRow | Verification | Explanation) and row.key_sha256 and row.table:
            yield row.key_sha256, row.table


def _grouped(tables: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"table {table[:12]}: {', '.join(where)}" for table, where in tables.items())


def objection(planned: Sequence[NodeAnswer]) -> str:
    """Return the reason against a rollback: a node cannot do it, or tables would differ.

    Empty if it may begin.
    """
    failed = errors_of(planned)
    if failed:
        return f"nothing was changed: {'; '.join(failed)}"
    keys: dict[str, dict[str, list[str]]] = {}
    for node_id, plan in plans_of(planned).items():
        where = keys.setdefault(plan.key, {}).setdefault(plan.table, [])
        where.append(f"node {node_id[:8]} generation {plan.new}")
    if not keys:
        return "nothing was changed: no node stores this key"
    for key, tables in keys.items():
        if len(tables) > 1:
            return (
                f"nothing was changed: nodes would serve different tables for key {key[:12]} ({_grouped(tables)}); "
                "each node numbers its generations itself, so roll back on each of them with --generation"
            )
    return ""


def _each(nodes: Sequence[Node], asked: CacheRequest) -> dict[str, CacheRequest]:
    return dict.fromkeys(ids_of(nodes), asked)


def _perform_on(
    command: str, nodes: Sequence[Node], asked: Mapping[str, CacheRequest], timeout_s: float
) -> tuple[NodeAnswer, ...]:
    """Run a command on the nodes that have a request, by their ids."""
    calls = {node_id: (command, request) for node_id, request in asked.items()}
    return _answers(nodes, *ask_nodes(perform, calls, timeout_s))


def _answers(
    nodes: Sequence[Node], answers: Mapping[str, CacheAnswer], problems: Mapping[str, str]
) -> tuple[NodeAnswer, ...]:
    """Build the answers of the nodes that were asked."""
    found = []
    for node in nodes:
        if node.node_id in answers or node.node_id in problems:
            found.append(_answer(node, answers.get(node.node_id), problems.get(node.node_id)))
    return tuple(found)


def _answer(node: Node, answer: CacheAnswer | None, problem: str | None) -> NodeAnswer:
    if answer is None:
        is_late = "did not answer" in (problem or "")
        advice = ""
        if is_late:
            advice = f" ({SETTING})"
        return NodeAnswer(node.node_id, node.address, False, error=f"{problem}{advice}")
    if answer.error:
        return NodeAnswer(node.node_id, node.address, False, error=f"node {node.node_id[:8]}: {answer.error}")
    return NodeAnswer(node.node_id, node.address, answer.ok, answer.result)
