"""`ray-warmup cache`: what lies in the node stores, whether it is whole, and what to do about it.

Exit codes: 0 done (`verify`: everything whole, `explain`: a hit); 1 failed, damaged, could not be read, or a miss, with
`--cluster` on any node, or a node that did not answer, or nodes that serve different tables; 2 wrong usage. Thin: the
work is `warmup/cache_admin/command.py`'s and `actors/node_caches.py`'s, the tables are `scripts/cache_view.py`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ray_warmup.scripts import quarantine_cli
from ray_warmup.scripts.cache_scope import EXIT_USAGE, Scope, answer
from ray_warmup.scripts.endings import GuardedGroup

app = typer.Typer(
    name="cache",
    cls=GuardedGroup,
    help="List, check, compare, move and prune what the warmup keeps on a node.",
    epilog="Exit codes: 0 done (verify: whole, explain: a hit), 1 failed, damaged, unreadable or a miss, with "
    "--cluster on any node, or because one did not answer or serves another table than the others, 2 wrong usage.",
    no_args_is_help=True,
    add_completion=False,
)
app.add_typer(quarantine_cli.app)

Key = Annotated[str, typer.Argument(help="The key's first digits; may be left out when there is one store.")]
Root = Annotated[str | None, typer.Option("--root", help="Cache root, instead of the node's own.")]
Override = Annotated[str | None, typer.Option("--override-dir", help="Directory that holds the keys directly.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Generation = Annotated[int | None, typer.Option("--generation", "-g", min=1, help="Instead of the current one.")]
Config = Annotated[
    str | None, typer.Option("--config", "-c", help="YAML file or recipe whose `cache` section and cluster are meant.")
]
Given = Annotated[str, typer.Option("--config", "-c", help="YAML file, or the name of a recipe.")]
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
    """One row for each key: generations, entries, guard, sizes, whether something holds it."""
    scope = Scope(config, settings, root, override_dir, cluster, address, timeout)
    answer("ls", scope, as_json, key=key)


@app.command()
def verify(
    key: Key = "",
    retime: Annotated[int, typer.Option(min=0, help="Also time so many entries of --config's table again.")] = 0,
    root: Root = None,
    override_dir: Override = None,
    config: Config = None,
    settings: Settings = None,
    cluster: Cluster = False,
    address: Address = None,
    timeout: Timeout = TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Re-read and re-hash every generation, blob, table and installation. Exit 1 if any is damaged.

    With --retime N, time N entries of the config's table against the default again, on this node's device, instead;
    exit 1 when one has drifted.
    """
    scope = Scope(config, settings, root, override_dir, cluster, address, timeout)
    if not retime:
        answer("verify", scope, as_json, key=key)
    if config is None:
        typer.echo("ray-warmup: --retime needs --config: the table's tasks come from it", err=True)
        raise typer.Exit(EXIT_USAGE)
    answer("retime", scope, as_json, retime=retime)


@app.command()
def explain(
    config: Given,
    settings: Settings = None,
    rank: Annotated[int | None, typer.Option(min=0, help="Whose key; unset: of this node's own ranks.")] = None,
    root: Root = None,
    override_dir: Override = None,
    cluster: Cluster = False,
    address: Address = None,
    timeout: Timeout = TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Show whether a config's key is a hit on this node, and if not, the part that differs. Exit 1 for a miss.

    With --cluster, ask the nodes that a run of the config would use.
    """
    answer("explain", Scope(config, settings, root, override_dir, cluster, address, timeout), as_json, rank=rank)


@app.command()
def diff(
    key: Key = "",
    old: Annotated[int | None, typer.Option(min=1, help="Default: the generation before NEW.")] = None,
    new: Annotated[int | None, typer.Option(min=1, help="Default: the current generation.")] = None,
    root: Root = None,
    override_dir: Override = None,
    config: Config = None,
    settings: Settings = None,
    cluster: Cluster = False,
    address: Address = None,
    timeout: Timeout = TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Show the changes between two generations: winners, their times, compiled files."""
    scope = Scope(config, settings, root, override_dir, cluster, address, timeout)
    answer("diff", scope, as_json, key=key, old=old, new=new)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="File to write.")],
    key: Key = "",
    generation: Generation = None,
    root: Root = None,
    override_dir: Override = None,
    config: Config = None,
    settings: Settings = None,
    cluster: Cluster = False,
    address: Address = None,
    timeout: Timeout = TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Write one key's artifact as one file, for images and for clusters without a network between them.

    With --cluster the newest that any node has.
    """
    if cluster and generation is not None:
        typer.echo("ray-warmup: --generation: each node numbers its generations itself; leave --cluster out", err=True)
        raise typer.Exit(EXIT_USAGE)
    scope = Scope(config, settings, root, override_dir, cluster, address, timeout)
    answer("export", scope, as_json, key=key, file=str(file.absolute()), generation=generation)


@app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(help="A file that `export` wrote.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also over a newer table, or over a guarded one by one that is not.")
    ] = False,
    root: Root = None,
    override_dir: Override = None,
    config: Config = None,
    settings: Settings = None,
    cluster: Cluster = False,
    address: Address = None,
    timeout: Timeout = TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Check a file as a whole, then publish its artifact where it belongs, on this node or on every node.

    A table that is older than what is there, or less checked, is refused unless --force is given. What it has compiled
    is put where engines of this user find it (`ray-warmup env`), without a GPU, too.
    """
    scope = Scope(config, settings, root, override_dir, cluster, address, timeout)
    answer("import", scope, as_json, file=str(file.absolute()), force=force)


@app.command()
def prune(
    key: Key = "",
    keep: Annotated[int, typer.Option(min=1, help="Newest different artifacts kept for each key.")] = 3,
    older_than_days: Annotated[float | None, typer.Option(min=0, help="Whole keys made longer ago.")] = None,
    max_bytes: Annotated[
        int | None, typer.Option(min=0, help="Whole keys, oldest first, until this much is left on a node.")
    ] = None,
    other_versions: Annotated[
        bool, typer.Option("--other-versions", help="Keys of FlashInfer versions that a node does not have.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it; without it only the plan is printed.")] = False,
    root: Root = None,
    override_dir: Override = None,
    config: Config = None,
    settings: Settings = None,
    cluster: Cluster = False,
    address: Address = None,
    timeout: Timeout = TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Remove what the rules name and nothing holds. A dry run, on each node, unless --yes is given.

    Of a store that cannot be read as a whole nothing is removed; it is named, and the exit code is 1.
    """
    rules = {"keep": keep, "older_than_days": older_than_days, "max_bytes": max_bytes, "other_versions": other_versions}
    scope = Scope(config, settings, root, override_dir, cluster, address, timeout)
    answer("prune", scope, as_json, key=key, yes=yes, **rules)


@app.command()
def rollback(
    key: Key = "",
    generation: Generation = None,
    force: Annotated[bool, typer.Option("--force", help="Also while a run of the key is live.")] = False,
    root: Root = None,
    override_dir: Override = None,
    config: Config = None,
    settings: Settings = None,
    cluster: Cluster = False,
    address: Address = None,
    timeout: Timeout = TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Make an earlier generation the current one, after checking that it is whole.

    With --cluster on every node, or on none when they would then serve different tables. Refused while a run of the
    key is live, which would publish over it.
    """
    scope = Scope(config, settings, root, override_dir, cluster, address, timeout)
    answer("rollback", scope, as_json, key=key, generation=generation, force=force)
