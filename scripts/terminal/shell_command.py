"""A command whose output a shell evaluates: where it fails the shell is given `false`, so that `eval` fails, too."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

REFUSAL = "false"


class ShellCommand(TyperCommand):
    """A command for `eval "$(...)"`.

    With `--json` it is an ordinary command.
    """

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse the arguments.

        On an invalid one, print the shell's `false` before the error.
        """
        is_for_a_shell = "--json" not in args
        try:
            return super().make_context(info_name, args, parent, **extra)
        except typer.Exit:  # --help
            raise
        except BaseException:
            _refuse(is_for_a_shell)
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        A command that raises `typer.Exit` has printed its output already.
        """
        try:
            return super().invoke(ctx)
        except typer.Exit:
            raise
        except BaseException:
            _refuse(not ctx.params.get("as_json"))
            raise


def _refuse(is_for_a_shell: bool) -> None:
    if is_for_a_shell:
        typer.echo(REFUSAL)
