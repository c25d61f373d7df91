"""Print the document of `--json`.

Each document carries the version of its schema, so that readers notice a change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import typer

SCHEMA_VERSION = 1
"""Of every `--json` output but the report's and an archive's, which have their own; raised when a field changes."""


# A border: any document of `--json`.
def print_document(document: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Print one document on stdout, on one line if `indent` is None."""
    typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=indent))
