"""`ray-warmup cache`: what lies in the node stores, whether it is whole, and what to do about it.

Exit codes: 0 done (`verify`: everything whole, `explain`: a hit); 1 failed, damaged, could not be read, or a miss, with
`--cluster` on any node, or a node that did not answer, or nodes that serve different tables; 2 wrong usage. Thin: the
work is `warmup/cache_admin/command.py`'s and `actors/node_caches.py`'s, the tables are `scripts/cache_view.py`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ray_warmup.actors.errors import EXIT_USAGE
from ray_warmup.scripts import quarantine_cli
from ray_warmup.scripts.cache_scope import Scope, answer
from ray_warmup.scripts.console import complain
from ray_warmup.scripts.endings import GuardedGroup
from ray_warmup.scripts.scope_options import scoped, scoped_by_config

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
Generation = Annotated[int | None, typer.Option("--generation", "-g", min=1, help="Instead of the current one.")]


@app.command("ls")
@scoped
def list_command(scope: Scope, key: Key = "") -> None:
    """One row for each key: generations, entries, guard, sizes, whether something holds it."""
    answer("ls", scope, key=key)


@app.command()
@scoped
def verify(
    scope: Scope,
    key: Key = "",
    retime: Annotated[int, typer.Option(min=0, help="Also time so many entries of --config's table again.")] = 0,
) -> None:
    """Re-read and re-hash every generation, blob, table and installation. Exit 1 if any is damaged.

    With --retime N, time N entries of the config's table against the default again, on this node's device, instead;
    exit 1 when one has drifted.
    """
    if not retime:
        answer("verify", scope, key=key)
    if scope.config is None:
        complain("--retime needs --config: the table's tasks come from it")
        raise typer.Exit(EXIT_USAGE)
    answer("retime", scope, retime=retime)


@app.command()
@scoped_by_config
def explain(
    scope: Scope,
    rank: Annotated[int | None, typer.Option(min=0, help="Whose key; unset: of this node's own ranks.")] = None,
) -> None:
    """Show whether a config's key is a hit on this node, and if not, the part that differs. Exit 1 for a miss.

    With --cluster, ask the nodes that a run of the config would use.
    """
    answer("explain", scope, rank=rank)


@app.command()
@scoped
def diff(
    scope: Scope,
    key: Key = "",
    old: Annotated[int | None, typer.Option(min=1, help="Default: the generation before NEW.")] = None,
    new: Annotated[int | None, typer.Option(min=1, help="Default: the current generation.")] = None,
) -> None:
    """Show the changes between two generations: winners, their times, compiled files."""
    answer("diff", scope, key=key, old=old, new=new)


@app.command()
@scoped
def export(
    scope: Scope,
    file: Annotated[Path, typer.Argument(help="File to write.")],
    key: Key = "",
    generation: Generation = None,
) -> None:
    """Write one key's artifact as one file, for images and for clusters without a network between them.

    With --cluster the newest that any node has.
    """
    if scope.cluster and generation is not None:
        complain("--generation: each node numbers its generations itself; leave --cluster out")
        raise typer.Exit(EXIT_USAGE)
    answer("export", scope, key=key, file=str(file.absolute()), generation=generation)


@app.command("import")
@scoped
def import_command(
    scope: Scope,
    file: Annotated[Path, typer.Argument(help="A file that `export` wrote.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also over a newer table, or over a guarded one by one that is not.")
    ] = False,
) -> None:
    """Check a file as a whole, then publish its artifact where it belongs, on this node or on every node.

    A table that is older than what is there, or less checked, is refused unless --force is given. What it has compiled
    is put where engines of this user find it (`ray-warmup env`), without a GPU, too.
    """
    answer("import", scope, file=str(file.absolute()), force=force)


@app.command()
@scoped
def prune(
    scope: Scope,
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
) -> None:
    """Remove what the rules name and nothing holds. A dry run, on each node, unless --yes is given.

    Of a store that cannot be read as a whole nothing is removed; it is named, and the exit code is 1.
    """
    rules = {"keep": keep, "older_than_days": older_than_days, "max_bytes": max_bytes, "other_versions": other_versions}
    answer("prune", scope, key=key, yes=yes, **rules)


@app.command()
@scoped
def rollback(
    scope: Scope,
    key: Key = "",
    generation: Generation = None,
    force: Annotated[bool, typer.Option("--force", help="Also while a run of the key is live.")] = False,
) -> None:
    """Make an earlier generation the current one, after checking that it is whole.

    With --cluster on every node, or on none when they would then serve different tables. Refused while a run of the
    key is live, which would publish over it.
    """
    answer("rollback", scope, key=key, generation=generation, force=force)
