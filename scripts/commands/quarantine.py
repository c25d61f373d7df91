"""List and lift quarantined tactics, which hung or crashed and are not measured again.

Exit codes as for `ray-warmup cache`: 1 where a file could not be read or changed, or a node did not answer.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ray_warmup.scripts.commands.cache_scope import Scope, answer
from ray_warmup.scripts.commands.scope_options import scoped

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
