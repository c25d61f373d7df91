"""`ray-warmup cache remote`: look after the store that outlives the nodes (`cache.remote`).

Exit codes: 0 done, 1 the place refused, did not answer in time or holds a manifest that cannot be read, 2 wrong usage.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ray_warmup.actors.errors import EXIT_USAGE
from ray_warmup.scripts.terminal.console import complain, say, wide_console
from ray_warmup.scripts.terminal.documents import print_document
from ray_warmup.scripts.terminal.endings import GuardedGroup

app = typer.Typer(
    name="remote",
    cls=GuardedGroup,
    help="Look after the store that outlives the nodes (cache.remote).",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage.",
    no_args_is_help=True,
    add_completion=False,
)
DAY_S = 86400.0


@app.command()
def prune(
    config: Annotated[str | None, typer.Option("--config", "-c", help="Config whose cache.remote is meant.")] = None,
    url: Annotated[str | None, typer.Option(help="URL of the store, instead of a config.")] = None,
    keep: Annotated[int, typer.Option(min=1, help="Number of newest artifacts to keep per key.")] = 3,
    older_than_days: Annotated[
        float | None, typer.Option(min=0, help="Of the others, remove only those older than this. Default: all.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove them. Default: print the plan only.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for all of it.")] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Remove old artifacts, then blobs that no manifest names. A dry run unless --yes is given.

    Blobs of the last hour stay, because a run may be about to name them. Nothing is removed beside a manifest that
    cannot be read.
    """
    from ray_warmup.warmup.errors import StoreError
    from ray_warmup.warmup.remote.location import RemoteLocation
    from ray_warmup.warmup.remote.remote_store import RemoteStore
    from ray_warmup.warmup.time_limit import within

    location = RemoteLocation(_url_of(config, url), timeout / 3)
    age_s = None if older_than_days is None else older_than_days * DAY_S

    def work() -> tuple[str, ...]:
        store = RemoteStore(location)
        return store.prune(keep, age_s) if yes else store.removable(keep, age_s)

    try:
        paths = within(timeout, work)
    except TimeoutError as error:
        raise StoreError(f"{location.url} did not answer within {timeout:g} s (--timeout)") from error
    if as_json:
        print_document({"url": location.url, "is_removed": yes, "paths": list(paths)})
        return
    _show(paths, is_removed=yes)


def _url_of(config: str | None, url: str | None) -> str:
    """Return the URL that is meant. Ends the command where none is named."""
    from ray_warmup.configs.loader import load_request

    named = url
    if named is None and config is not None:
        named = load_request(config).cache.remote
    if named is None:
        complain("no remote store is named: give --url, or --config with cache.remote")
        raise typer.Exit(EXIT_USAGE)
    return named


def _show(paths: tuple[str, ...], *, is_removed: bool) -> None:
    console = wide_console()
    for path in paths:
        say(console, path)
    artifacts = sum(path.endswith(".json") for path in paths)
    counts = f"{artifacts} artifacts and {len(paths) - artifacts} blobs"
    if is_removed:
        say(console, f"removed: {counts}")
    elif paths:
        say(console, f"dry run: nothing was removed; --yes removes {counts}")
    else:
        say(console, "the rules name nothing to remove")
