"""`ray-warmup engine`: record, prove and show a real engine's compilations on this node.

Exit codes: 0 done (`prove`: nothing was compiled), 1 failed, 2 wrong configuration. Thin: the work is
`warmup/engines/`'s, the tables are `scripts/commands/engine_here.py`'s.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ray_warmup.scripts.terminal.endings import GuardedGroup

app = typer.Typer(
    name="engine",
    cls=GuardedGroup,
    help="Record, prove and show a real engine's start-up compilations.",
    epilog="Exit codes: 0 done (prove: nothing was compiled), 1 failed, 2 wrong configuration or usage.",
    no_args_is_help=True,
    add_completion=False,
)

Config = Annotated[str, typer.Option("--config", "-c", help="YAML file whose engine.kind names the engine.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Override one field: section.field=value. Repeatable.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command()
def record(config: Config, settings: Settings = None, as_json: AsJson = False) -> None:
    """Start the engine once with random weights and empty caches, and store the filled caches on this node."""
    from ray_warmup.scripts.commands.engine_here import record_and_show

    raise typer.Exit(record_and_show(config, settings or [], as_json=as_json))


@app.command()
def prove(config: Config, settings: Settings = None, as_json: AsJson = False) -> None:
    """Start the engine in an empty home with this node's artifact. Exit code 0 if nothing was compiled."""
    from ray_warmup.scripts.commands.engine_here import prove_and_show

    raise typer.Exit(prove_and_show(config, settings or [], as_json=as_json))


@app.command()
def show(
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="YAML file whose cache and request are meant.")
    ] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Print each cache kind with the engine's directory, its content, and this node's artifact."""
    from ray_warmup.scripts.commands.engine_here import show_engines

    raise typer.Exit(show_engines(config, settings or [], as_json=as_json))
