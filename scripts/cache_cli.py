"""`ray-warmup cache`: what lies in the node stores, whether it is whole, and what to do about it.

Exit codes: 0 done (`verify`: everything whole, `explain`: a hit); 1 failed, damaged, or a miss; 2 wrong usage.
Thin: the work is `warmup/cache/command.py`'s, the tables are `scripts/cache_view.py`'s.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from configs import ConfigError

EXIT_DONE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

app = typer.Typer(
    name="cache",
    help="List, check, compare, move and prune what the warmup keeps on a node.",
    epilog="Exit codes: 0 done (verify: whole, explain: a hit), 1 failed, damaged or a miss, 2 wrong usage.",
    no_args_is_help=True,
    add_completion=False,
)

Key = Annotated[str, typer.Argument(help="The key's first digits; may be left out when there is one store.")]
Root = Annotated[str | None, typer.Option("--root", help="Cache root, instead of the node's own.")]
Override = Annotated[str | None, typer.Option("--override-dir", help="Directory that holds the keys directly.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Generation = Annotated[int | None, typer.Option("--generation", "-g", min=1, help="Instead of the current one.")]


@app.command("ls")
def list_command(key: Key = "", root: Root = None, override_dir: Override = None, as_json: AsJson = False) -> None:
    """One row for each key: generations, entries, guard, sizes, whether something holds it."""
    _answer("ls", as_json, key=key, root=root, override_dir=override_dir)


@app.command()
def verify(
    key: Key = "",
    retime: Annotated[int, typer.Option(min=0, help="Also time so many entries of --config's table again.")] = 0,
    config: Annotated[str | None, typer.Option("--config", "-c", help="Whose table --retime is about.")] = None,
    override: Annotated[list[str] | None, typer.Option("--set", help="section.field=value; may be repeated.")] = None,
    root: Root = None,
    override_dir: Override = None,
    as_json: AsJson = False,
) -> None:
    """Re-read and re-hash every generation, blob, table and installation; exit 1 when one is damaged.

    With --retime N, time N entries of the config's table against the default again, on this node's device, instead;
    exit 1 when one has drifted.
    """
    if retime and config is None:
        typer.echo("ray-warmup: --retime needs --config: the table's tasks come from it", err=True)
        raise typer.Exit(EXIT_USAGE)
    if retime:
        _answer("retime", as_json, retime=retime, config=config, set=override or [])
    _answer("verify", as_json, key=key, root=root, override_dir=override_dir)


@app.command()
def explain(
    config: Annotated[str, typer.Option("--config", "-c", help="YAML file, or the name of a recipe.")],
    override: Annotated[list[str] | None, typer.Option("--set", help="section.field=value; may be repeated.")] = None,
    rank: Annotated[int, typer.Option(min=0, help="Whose key.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Say whether a config's key is a hit on this node, and which part differs if not; exit 1 for a miss."""
    _answer("explain", as_json, config=config, set=override or [], rank=rank)


@app.command()
def diff(
    key: Key = "",
    old: Annotated[int | None, typer.Option(min=1, help="Default: the generation before NEW.")] = None,
    new: Annotated[int | None, typer.Option(min=1, help="Default: the current generation.")] = None,
    root: Root = None,
    override_dir: Override = None,
    as_json: AsJson = False,
) -> None:
    """What changed between two generations: winners, their times, compiled files."""
    _answer("diff", as_json, key=key, old=old, new=new, root=root, override_dir=override_dir)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="File to write.")],
    key: Key = "",
    generation: Generation = None,
    root: Root = None,
    override_dir: Override = None,
    as_json: AsJson = False,
) -> None:
    """Write one key's artifact as one file, for images and for clusters without a network between them."""
    arguments = {"root": root, "override_dir": override_dir, "generation": generation}
    _answer("export", as_json, key=key, file=str(file.absolute()), **arguments)


@app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(help="A file that `export` wrote.")],
    root: Root = None,
    override_dir: Override = None,
    as_json: AsJson = False,
) -> None:
    """Check a file as a whole, then publish its artifact where it belongs."""
    _answer("import", as_json, file=str(file.absolute()), root=root, override_dir=override_dir)


@app.command()
def prune(
    key: Key = "",
    keep: Annotated[int, typer.Option(min=1, help="Newest generations kept for each key.")] = 3,
    older_than_days: Annotated[float | None, typer.Option(min=0, help="Whole keys made longer ago.")] = None,
    max_bytes: Annotated[
        int | None, typer.Option(min=0, help="Whole keys, oldest first, until this much is left.")
    ] = None,
    other_versions: Annotated[
        bool, typer.Option("--other-versions", help="Keys of other FlashInfer versions.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it; without it only the plan is printed.")] = False,
    root: Root = None,
    override_dir: Override = None,
    as_json: AsJson = False,
) -> None:
    """Remove what the rules name and nothing holds. A dry run unless --yes is given."""
    rules = {"keep": keep, "older_than_days": older_than_days, "max_bytes": max_bytes, "other_versions": other_versions}
    _answer("prune", as_json, key=key, yes=yes, root=root, override_dir=override_dir, **rules)


@app.command()
def rollback(
    key: Key = "",
    generation: Generation = None,
    root: Root = None,
    override_dir: Override = None,
    as_json: AsJson = False,
) -> None:
    """Make an earlier generation the current one, after checking that it is whole."""
    _answer("rollback", as_json, key=key, generation=generation, root=root, override_dir=override_dir)


def _answer(command: str, as_json: bool, **arguments: Any) -> NoReturn:
    """Run a command on this node, print its answer, exit."""
    from warmup.cache.command import perform

    try:
        answer = perform(command, arguments)
    except ConfigError as error:
        typer.echo(f"ray-warmup: {error}", err=True)
        raise typer.Exit(EXIT_USAGE) from error
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    elif "error" in answer:
        typer.echo(f"ray-warmup: {answer['error']}", err=True)
    else:
        from scripts.cache_view import show_answer

        show_answer(answer)
    raise typer.Exit(EXIT_DONE if answer["ok"] else EXIT_FAILED)
