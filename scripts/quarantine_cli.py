"""List and lift quarantined tactics, which hung or crashed and are not measured again.

Exit codes as for `ray-warmup cache`: 1 where a file could not be read or changed, or a node did not answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ray_warmup.scripts.cache_scope import Scope, answer
from ray_warmup.scripts.console import say
from ray_warmup.scripts.node_table import NodeTable
from ray_warmup.scripts.scope_options import scoped

if TYPE_CHECKING:
    from ray_warmup.warmup.cache_admin.quarantining import StoreBans

app = typer.Typer(
    name="quarantine",
    help="List and lift quarantined tactics, which hung or crashed and are not measured again.",
    no_args_is_help=True,
    add_completion=False,
)

Key = Annotated[str, typer.Argument(help="First digits of the key. Default: all keys.")]


@app.command("ls")
@scoped
def list_command(scope: Scope, key: Key = "") -> None:
    """List the quarantined tactics of each key, each tactic once."""
    answer("quarantine ls", scope, key=key)


@app.command()
@scoped
def clear(
    scope: Scope,
    key: Key = "",
    op: Annotated[str, typer.Option(help="Only tactics of this op.")] = "",
    runner: Annotated[str, typer.Option(help="Only tactics of this runner.")] = "",
    tactic: Annotated[str, typer.Option(help="Only this tactic, as `ls` shows it.")] = "",
) -> None:
    """Lift all tactics or the selected ones, so that the next tuning run measures them again."""
    answer("quarantine clear", scope, key=key, op=op, runner=runner, tactic=tactic)


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
