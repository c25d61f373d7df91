"""`ray-warmup cache ... --cluster`: one command on every node, each in the directories that its own environment names.

    which nodes         with a config those that could hold a rank of it, else every one that is alive
    ls, verify, explain, diff, prune   one question each
    rollback            planned on every node first; nothing is changed unless all of them would serve one table, and
                        where one fails on the way the others go forward again
    export, import      `archive_moves.py`: one file where the command runs

Re-timing needs a rank's device and stays on one node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ray_warmup.actors import capacity
from ray_warmup.actors.archive_moves import export_from, import_to
from ray_warmup.actors.explaining import able, used
from ray_warmup.actors.node_task import ask_nodes
from ray_warmup.configs import WarmupConfig
from ray_warmup.warmup.cache_admin.command import perform

Arguments = Mapping[str, Any]
COMMANDS = (
    "ls",
    "verify",
    "explain",
    "diff",
    "prune",
    "rollback",
    "export",
    "import",
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
    result: Any = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class ClusterAnswer:
    """Every asked node's answer, and whether all of it is well."""

    command: str
    ok: bool
    nodes: tuple[NodeAnswer, ...]
    error: str = ""
    """Problem of the answers taken together."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def perform_everywhere(
    command: str, arguments: Arguments, timeout_s: float, config: WarmupConfig | None = None
) -> ClusterAnswer:
    """Run a command on the connected cluster's nodes, or on those that could hold a rank of `config`."""
    assert command in COMMANDS, command
    nodes = sorted(capacity.members(), key=lambda node: node.node_id)
    if config is not None:
        nodes = able(config, nodes) if command == "explain" else nodes_for(config, nodes)
    if not nodes:
        return ClusterAnswer(command, False, (), "no node of this cluster could hold a rank of the config")
    if command in MOVES:
        return combine(command, _answers(nodes, *MOVES[command](nodes, arguments, timeout_s)))
    arguments = {**arguments, "if_present": True}
    if command == "rollback":
        return _rollback(nodes, arguments, timeout_s)
    answers = _perform_on(command, nodes, arguments, {}, timeout_s)
    if command == "explain" and config is not None:
        return _explained(config, nodes, answers)
    return combine(command, answers)


def _explained(config: WarmupConfig, nodes: Sequence[capacity.Node], answers: Sequence[NodeAnswer]) -> ClusterAnswer:
    """The answers of the nodes that a run would use."""
    chosen, shortage = used(config, nodes, {answer.node_id for answer in answers if answer.ok})
    needed = {node.node_id for node in chosen}
    judged = combine("explain", [answer for answer in answers if answer.node_id in needed])
    others = [text for text in (shortage, *differences(answers)) if text and text not in judged.error]
    if not others:
        return judged
    return replace(judged, ok=False, error="; ".join(filter(None, (judged.error, *others))))


def _rollback(nodes: Sequence[capacity.Node], arguments: Arguments, timeout_s: float) -> ClusterAnswer:
    """Roll every node back and return the rows, or none if nothing was changed."""
    planned = _perform_on("rollback", nodes, {**arguments, "plan": True}, {}, timeout_s)
    problem = objection(planned)
    if problem:
        return ClusterAnswer("rollback", False, (), problem)
    # By number: nodes that share one directory then go back once, not once each.
    steps = {row.node_id: {"key": row.result["key"], "generation": row.result["new"]} for row in planned if row.result}
    holders = [node for node in nodes if node.node_id in steps]
    done = {answer.node_id: answer for answer in _perform_on("rollback", holders, arguments, steps, timeout_s)}
    if any(answer.error for answer in done.values()):
        return _undone(holders, planned, done, arguments, timeout_s)
    return combine("rollback", [done.get(answer.node_id, answer) for answer in planned])


def _undone(
    holders: Sequence[capacity.Node],
    planned: Sequence[NodeAnswer],
    done: Mapping[str, NodeAnswer],
    arguments: Arguments,
    timeout_s: float,
) -> ClusterAnswer:
    """Return every node to its former generation.

    A node without an answer is asked too, since it may have gone back.
    """
    steps = {
        row.node_id: {"key": row.result["key"], "generation": row.result["old"], "force": True}
        for row in planned
        if row.result
    }
    back = {answer.node_id: answer for answer in _perform_on("rollback", holders, arguments, steps, timeout_s)}
    causes = [answer.error for answer in done.values() if answer.error]
    stuck = [node_id for node_id, answer in back.items() if answer.error]
    if not stuck:
        return ClusterAnswer("rollback", False, (), f"nothing was changed: {'; '.join(causes)}")
    names = ", ".join(node_id[:8] for node_id in stuck)
    rows = tuple(done[node_id] for node_id in stuck)
    return ClusterAnswer(
        "rollback",
        False,
        tuple(row for row in rows if not row.error),
        f"{'; '.join(causes)}; all were put back but {names}: `ray-warmup cache ls` says what is current there",
    )


def nodes_for(config: WarmupConfig, nodes: Sequence[capacity.Node]) -> list[capacity.Node]:
    """Nodes with room for at least one rank of a config, by what they have in all."""
    cluster = config.cluster
    bundle = capacity.bundle_of(cluster, cluster.backend_beside_gpus)
    return [node for node in nodes if capacity.matches(cluster, node) and node.holds(bundle, node.total) > 0]


def combine(command: str, answers: Sequence[NodeAnswer]) -> ClusterAnswer:
    """All answers as one: well when each of them is and no two nodes serve different tables for one key."""
    problems = [answer.error for answer in answers if answer.error] + list(differences(answers))
    is_well = all(answer.ok for answer in answers) and not problems
    return ClusterAnswer(command, is_well, tuple(answers), "; ".join(problems))


def differences(answers: Sequence[NodeAnswer]) -> tuple[str, ...]:
    """Return a message for each key for which nodes serve different tables."""
    served: dict[str, dict[str, list[str]]] = {}
    for answer in answers:
        rows = answer.result if isinstance(answer.result, list) else [answer.result]
        for row in rows:
            if isinstance(row, dict) and row.get("key_sha256") and row.get("table"):
                tables = served.setdefault(row["key_sha256"], {})
                tables.setdefault(row["table"], []).append(answer.node_id[:8])
    return tuple(
        f"nodes serve different tables for key {key[:12]} ({_grouped(tables)}): run the warmup again, or roll back"
        for key, tables in served.items()
        if len(tables) > 1
    )


def _grouped(tables: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"table {table[:12]}: {', '.join(where)}" for table, where in tables.items())


def objection(planned: Sequence[NodeAnswer]) -> str:
    """Return the reason against a rollback: a node cannot do it, or tables would differ.

    Empty if it may begin.
    """
    failed = [answer.error for answer in planned if answer.error]
    if failed:
        return f"nothing was changed: {'; '.join(failed)}"
    keys: dict[str, dict[str, list[str]]] = {}
    for answer in planned:
        if answer.result is not None:
            row = answer.result
            where = keys.setdefault(row["key"], {}).setdefault(row["table"], [])
            where.append(f"node {answer.node_id[:8]} generation {row['new']}")
    if not keys:
        return "nothing was changed: no node stores this key"
    for key, tables in keys.items():
        if len(tables) > 1:
            return (
                f"nothing was changed: nodes would serve different tables for key {key[:12]} ({_grouped(tables)}); "
                "each node numbers its generations itself, so roll back on each of them with --generation"
            )
    return ""


def _perform_on(
    command: str, nodes: Sequence[capacity.Node], arguments: Arguments, own: Mapping[str, Arguments], timeout_s: float
) -> tuple[NodeAnswer, ...]:
    """`own` are arguments of single nodes, by id."""
    asked = {node.node_id: (command, {**arguments, **own.get(node.node_id, {})}) for node in nodes}
    return _answers(nodes, *ask_nodes(perform, asked, timeout_s))


def _answers(
    nodes: Sequence[capacity.Node], answers: Mapping[str, Any], problems: Mapping[str, str]
) -> tuple[NodeAnswer, ...]:
    """Build the answers of the nodes that were asked."""
    asked = [node for node in nodes if node.node_id in answers or node.node_id in problems]
    return tuple(_answer(node, answers.get(node.node_id), problems.get(node.node_id)) for node in asked)


def _answer(node: capacity.Node, answer: dict[str, Any] | None, problem: str | None) -> NodeAnswer:
    if answer is None:
        advice = f" ({SETTING})" if problem and "did not answer" in problem else ""
        return NodeAnswer(node.node_id, node.address, False, error=f"{problem}{advice}")
    if "error" in answer:
        return NodeAnswer(node.node_id, node.address, False, error=f"node {node.node_id[:8]}: {answer['error']}")
    return NodeAnswer(node.node_id, node.address, answer["ok"], answer["result"])
