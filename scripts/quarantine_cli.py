"""List and lift quarantined tactics, which hung or crashed and are not measured again.

Exit codes as for `ray-warmup cache`: 1 where a file could not be read or changed, or a node did not answer.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from ray_warmup.scripts.cache_scope import Scope, answer
from ray_warmup.scripts.console import add_row, say, table_of

app = typer.Typer(
    name="quarantine",
    help="Show the tactics that hung or crashed and are measured no more, and lift them.",
    no_args_is_help=True,
    add_completion=False,
)

Key = Annotated[str, typer.Argument(help="The key's first digits; all keys without.")]
Root = Annotated[str | None, typer.Option("--root", help="Cache root, instead of the node's own.")]
Override = Annotated[str | None, typer.Option("--override-dir", help="Directory that holds the keys directly.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Config = Annotated[str | None, typer.Option("--config", "-c", help="YAML file or recipe whose cache is meant.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="section.field=value; may be repeated.")]
Cluster = Annotated[bool, typer.Option("--cluster", help="On every node, through one Ray task each.")]
Address = Annotated[str | None, typer.Option("--address", help="Of the cluster; default $RAY_ADDRESS or a local one.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds until a silent node is named instead.")]
TIMEOUT_S = 120.0


@app.command("ls")
def list_command(
    key: Key = "",
    root: Root = None,
    override_dir: Override = None,
    config: Config = None,
    settings: Settings = None,
    cluster: Cluster = False,
    address: Address = None,
    timeout: Timeout = TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """List the quarantined tactics of each key, each tactic once."""
    scope = Scope(config, settings, root, override_dir, cluster, address, timeout)
    answer("quarantine ls", scope, as_json, key=key)


@app.command()
def clear(
    key: Key = "",
    op: Annotated[str, typer.Option(help="Only tactics of this op.")] = "",
    runner: Annotated[str, typer.Option(help="Only tactics of this runner.")] = "",
    tactic: Annotated[str, typer.Option(help="Only this tactic, as `ls` shows it.")] = "",
    root: Root = None,
    override_dir: Override = None,
    config: Config = None,
    settings: Settings = None,
    cluster: Cluster = False,
    address: Address = None,
    timeout: Timeout = TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Lift tactics, all of them or what the options name: the next run that tunes measures them again."""
    scope = Scope(config, settings, root, override_dir, cluster, address, timeout)
    answer("quarantine clear", scope, as_json, key=key, op=op, runner=runner, tactic=tactic)


def show_rows(console: Console, answers: list[tuple[str, Any]]) -> None:
    """Print the quarantined tactics of each node."""
    names = ("key", "op", "runner", "tactic")
    table = table_of(*(("node", *names) if any(node for node, _ in answers) else names))
    for node, stores in answers:
        for store in stores:
            for row in store["rows"]:
                cells = (_key(store), row["op"], row["runner"], row["tactic"])
                add_row(table, *((node, *cells) if node else cells))
    if table.row_count:
        console.print(table)
    for node, stores in answers:
        _problems(console, node, stores)
        if not any(store["rows"] or store["problems"] for store in stores):
            say(console, _on(node) + "nothing is quarantined")


def show_lifted(console: Console, answers: list[tuple[str, Any]]) -> None:
    """Print the lifted and the remaining tactics of each node."""
    for node, stores in answers:
        _problems(console, node, stores)
        for store in stores:
            for row in store["lifted"]:
                say(console, f"{_on(node)}{_key(store)}: lifted {row['runner']} tactic {row['tactic']} of {row['op']}")
        if not any(store["lifted"] for store in stores):
            say(console, _on(node) + "nothing that is meant is quarantined")
        if left := sum(len(store["rows"]) for store in stores):
            say(console, f"{_on(node)}{left} tactics stay quarantined")


def _problems(console: Console, node: str, stores: list[dict[str, Any]]) -> None:
    for store in stores:
        for problem in store["problems"]:
            say(console, _on(node) + problem)


def _key(store: dict[str, Any]) -> str:
    return str(store["path"]).rstrip("/").rpartition("/")[2][:12]


def _on(node: str) -> str:
    return f"node {node}: " if node else ""
