"""`ray-warmup key`: make and show the keys that sign artifacts.

Exit codes: 0 done, 1 the disk refused, 2 wrong usage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ray_warmup.scripts.terminal.console import say
from ray_warmup.scripts.terminal.documents import print_document
from ray_warmup.scripts.terminal.endings import GuardedGroup

app = typer.Typer(
    name="key",
    cls=GuardedGroup,
    help="Make and show the Ed25519 keys that sign artifacts.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage.",
    no_args_is_help=True,
    add_completion=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print a JSON document.")]


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Writes NAME.key and NAME.pub; NAME may be a path.")],
    as_json: Json = False,
) -> None:
    """Make a pair of keys: NAME.key signs and stays secret, NAME.pub is for everybody."""
    from ray_warmup.warmup.signing.keys import new_key, write_pair

    private, public = Path(f"{name}.key").expanduser().absolute(), Path(f"{name}.pub").expanduser().absolute()
    key = new_key()
    write_pair(key, private, public)
    if as_json:
        print_document(
            {"private": str(private), "public": str(public), "id": key.public.key_id, "word": key.public.word}
        )
        return
    console = Console()
    say(console, f"key {key.public.key_id}")
    say(console, f"{private}: keep it on the nodes that tune: cache.signing_key, or RAY_WARMUP_SIGNING_KEY")
    say(console, f"{public}: every node needs it; as one word in a config:")
    say(console, f"cache: {{trust: signed, public_keys: ['{key.public.word}']}}")


@app.command()
def show(
    source: Annotated[str, typer.Argument(help="A PEM file of a public or a private key, or ed25519:<base64>.")],
    as_json: Json = False,
) -> None:
    """Show a key's id and its public half as one word."""
    from ray_warmup.warmup.signing.keys import public_half

    key = public_half(source)
    if as_json:
        print_document({"id": key.key_id, "word": key.word})
        return
    console = Console()
    say(console, f"key {key.key_id}")
    say(console, key.word)
