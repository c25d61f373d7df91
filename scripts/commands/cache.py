"""`ray-warmup cache`: list, check, compare, move and prune node stores.

Exit code 0 means done (`verify`: everything is whole, `explain`: a hit). Exit code 1 means failed, damaged, unreadable
or a miss. With `--cluster` one such node is enough, and so is a node that did not answer or nodes that serve different
tables. Exit code 2 means wrong usage. `warmup/cache_admin/command.py` and `actors/stores/cache_commands.py` do the
work, and `scripts/views/cache.py` prints the tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ray_warmup.actors.errors import EXIT_USAGE
from ray_warmup.scripts.commands import quarantine, remote
from ray_warmup.scripts.commands.cache_scope import Scope, answer
from ray_warmup.scripts.commands.scope_options import scoped, scoped_by_config
from ray_warmup.scripts.terminal.console import complain
from ray_warmup.scripts.terminal.endings import GuardedGroup

app = typer.Typer(
    name="cache",
    cls=GuardedGroup,
    help="List, check, compare, move and prune what a node keeps.",
    epilog="Exit codes: 0 done (verify: whole, explain: a hit), 1 failed, damaged, unreadable or a miss, with "
    "--cluster on any node, or because one did not answer or serves another table than the others, 2 wrong usage.",
    no_args_is_help=True,
    add_completion=False,
)
app.add_typer(quarantine.app)
app.add_typer(remote.app)

Key = Annotated[str, typer.Argument(help="First digits of the key. Optional if there is one store.")]
Generation = Annotated[
    int | None, typer.Option("--generation", "-g", min=1, help="Number of the generation. Default: the current one.")
]


@app.command("ls")
@scoped
def list_command(scope: Scope, key: Key = "") -> None:
    """List the keys with generations, entries, guard, sizes and leases."""
    answer("ls", scope, key=key)


@app.command()
@scoped
def verify(
    scope: Scope,
    key: Key = "",
    retime: Annotated[
        int, typer.Option(min=0, help="Measure this many entries of --config's table again instead.")
    ] = 0,
) -> None:
    """Re-read and re-hash every generation, blob, table and installation. Exit 1 if any is damaged.

    With --retime N, measure N entries of the config's table against the default on this node's device instead. Exit 1
    if one has drifted.
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
    rank: Annotated[
        int | None, typer.Option(min=0, help="Rank whose key is meant. Default: this node's own ranks.")
    ] = None,
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
    old: Annotated[int | None, typer.Option(min=1, help="Older generation. Default: the one before NEW.")] = None,
    new: Annotated[int | None, typer.Option(min=1, help="Newer generation. Default: the current one.")] = None,
) -> None:
    """Show the changes between two generations: winners, their times, compiled files."""
    answer("diff", scope, key=key, old=old, new=new)


@app.command()
@scoped
def export(
    scope: Scope,
    file: Annotated[Path, typer.Argument(help="File to write, with --oci a directory.")],
    key: Key = "",
    generation: Generation = None,
    oci: Annotated[bool, typer.Option("--oci", help="Write an OCI image layout, for container registries.")] = False,
) -> None:
    """Write one key's artifact to a file, for images and for unconnected clusters.

    With --oci, write a directory that oras and skopeo copy to a container registry. Its tag is ray-warmup. With
    --cluster, write the newest artifact of any node.
    """
    if scope.cluster and generation is not None:
        complain("--generation: each node numbers its generations itself; leave --cluster out")
        raise typer.Exit(EXIT_USAGE)
    answer("export", scope, key=key, file=str(file.absolute()), generation=generation, oci=oci)


@app.command("import")
@scoped
def import_command(
    scope: Scope,
    file: Annotated[Path, typer.Argument(help="What `export` wrote: a file, or the directory of --oci.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace a newer table, or a guarded one by an unguarded one.")
    ] = False,
) -> None:
    """Check a whole file or OCI image layout, then publish its artifact on this node or on every node.

    A table that is older or less checked than the present one is refused unless --force is given. Compiled kernels are
    installed in this user's caches (`ray-warmup env`), even without a GPU.
    """
    answer("import", scope, file=str(file.absolute()), force=force)


@app.command()
@scoped
def prune(
    scope: Scope,
    key: Key = "",
    keep: Annotated[int, typer.Option(min=1, help="Number of newest artifacts to keep per key.")] = 3,
    older_than_days: Annotated[float | None, typer.Option(min=0, help="Remove whole keys older than this.")] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(min=0, help="Remove whole keys, oldest first, until a node has at most this many bytes."),
    ] = None,
    other_versions: Annotated[
        bool, typer.Option("--other-versions", help="Remove keys of FlashInfer versions that a node does not have.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove the files. Default: print the plan only.")] = False,
) -> None:
    """Remove stores and generations by rules, except those in use. A dry run unless --yes is given.

    Remove nothing from a store with unreadable content. Name that store and exit 1.
    """
    rules = {"keep": keep, "older_than_days": older_than_days, "max_bytes": max_bytes, "other_versions": other_versions}
    answer("prune", scope, key=key, yes=yes, **rules)


@app.command()
@scoped
def sign(scope: Scope, key: Key = "", generation: Generation = None) -> None:
    """Check an artifact, sign it with cache.signing_key, and make it the current one.

    For an artifact that was made without a key, after a change of keys, or to go back where cache.trust is signed.
    """
    answer("sign", scope, key=key, generation=generation)


@app.command()
@scoped
def rollback(
    scope: Scope,
    key: Key = "",
    generation: Generation = None,
    force: Annotated[bool, typer.Option("--force", help="Roll back even while a run of the key is live.")] = False,
) -> None:
    """Check an earlier generation and make it the current one.

    With --cluster, change every node, or none if nodes would then serve different tables. Refuse while a run of the key
    is live, because the run would publish over the change.
    """
    answer("rollback", scope, key=key, generation=generation, force=force)
