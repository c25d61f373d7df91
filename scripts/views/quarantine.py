"""Answers of `ray-warmup cache quarantine` for people: one row for each quarantined tactic of each node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from ray_warmup.scripts.terminal.console import say
from ray_warmup.scripts.views.node_table import NodeTable

if TYPE_CHECKING:
    from ray_warmup.warmup.cache_admin.quarantining import StoreBans


def show_rows(console: Console, answers: Sequence[tuple[str, tuple[StoreBans, ...]]]) -> None:
    """Print the quarantined tactics of each node."""
    rows = NodeTable([node for node, _ in answers], "key", "op", "runner", "tactic")
    for node, stores in answers:
        for store in stores:
            for row in store.rows:
                rows.add(node, _key(store), row.op, row.runner, row.tactic)
    rows.print(console)
    for node, stores in answers:
        _problems(console, node, stores)
        if not any(store.rows or store.problems for store in stores):
            say(console, _on(node) + "nothing is quarantined")


def show_lifted(console: Console, answers: Sequence[tuple[str, tuple[StoreBans, ...]]]) -> None:
    """Print the lifted and the remaining tactics of each node."""
    for node, stores in answers:
        _problems(console, node, stores)
        lifted, left = 0, 0
        for store in stores:
            lifted += len(store.lifted)
            left += len(store.rows)
            for row in store.lifted:
                say(console, f"{_on(node)}{_key(store)}: lifted {row.runner} tactic {row.tactic} of {row.op}")
        if not lifted:
            say(console, _on(node) + "nothing that is meant is quarantined")
        if left:
            say(console, f"{_on(node)}{left} tactics stay quarantined")


def _problems(console: Console, node: str, stores: Sequence[StoreBans]) -> None:
    for store in stores:
        for problem in store.problems:
            say(console, _on(node) + problem)


def _key(store: StoreBans) -> str:
    return str(store.path).rstrip("/").rpartition("/")[2][:12]


def _on(node: str) -> str:
    if not node:
        return ""
    return f"node {node}: "
