"""`ray-warmup doctor`: check this node, or every node of a cluster, before something goes wrong.

Exit codes: 0 nothing is wrong (warnings allowed), 1 an error was found, 2 wrong usage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ray_warmup.actors.errors import EXIT_FAILED
from ray_warmup.scripts.terminal.console import plain, wide_console
from ray_warmup.scripts.terminal.documents import print_document

if TYPE_CHECKING:
    from ray_warmup.configs.schema import CacheSection
    from ray_warmup.warmup.doctor.finding import Finding

_STYLES = {"ok": "green", "warning": "yellow", "error": "red"}


def doctor(
    config: Annotated[str | None, typer.Option("--config", "-c", help="Config whose cache section is meant.")] = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="Check every node of the cluster.")] = False,
    address: Annotated[str | None, typer.Option(help="Ray address for --cluster.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for the answers of nodes.")] = 60.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and errors only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check versions, caches, engines, GPUs, keys and the remote store. Each problem comes with its remedy."""
    from ray_warmup.configs.loader import load_request
    from ray_warmup.configs.schema import CacheSection

    section = CacheSection() if config is None else load_request(config).cache
    found = _of_cluster(section, address, timeout) if cluster else _here(section)
    is_well = not any(row.level == "error" for rows in found.values() for row in rows)
    if as_json:
        nodes = {name: [asdict(row) for row in rows] for name, rows in found.items()}
        print_document({"ok": is_well, "nodes": nodes})
    else:
        _show(found, quiet)
    if not is_well:
        raise typer.Exit(EXIT_FAILED)


def _here(section: CacheSection) -> dict[str, tuple[Finding, ...]]:
    from ray_warmup.warmup.doctor.all_checks import check_node

    return {"": check_node(section)}


def _of_cluster(section: CacheSection, address: str | None, timeout_s: float) -> dict[str, tuple[Finding, ...]]:
    from ray_warmup.actors.questions.examination import examine
    from ray_warmup.scripts.commands.registry import on_cluster

    with on_cluster(address):
        return examine(section, timeout_s)


def _show(found: Mapping[str, Sequence[Finding]], quiet: bool) -> None:
    from rich.text import Text

    console = wide_console()
    counts = {"ok": 0, "warning": 0, "error": 0}
    for name, rows in found.items():
        where = ""
        if name:
            where = f"node {name[:8]}: "
        if name == "cluster":
            where = "cluster: "
        for row in rows:
            counts[row.level] += 1
            if quiet and row.level == "ok":
                continue
            line = Text(f"{row.level:<8}", style=_STYLES[row.level])
            line.append(plain(f"{where}{row.subject}: {row.text}"), style="default")
            console.print(line, highlight=False, soft_wrap=True)
            if row.remedy:
                console.print(Text(plain(f"         {row.remedy}")), highlight=False, soft_wrap=True)
    errors = "1 error" if counts["error"] == 1 else f"{counts['error']} errors"
    warnings = "1 warning" if counts["warning"] == 1 else f"{counts['warning']} warnings"
    console.print(f"{errors}, {warnings}, {counts['ok']} ok", highlight=False)
