"""`ray-warmup report`: show an earlier run, as text or as a page, and compare two.

Exit codes: 0 done, 1 there is no such report, 2 wrong usage. `compare` exits 0 whatever differs.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ray_warmup.configs import ConfigError
from ray_warmup.scripts.reports.report_file import ReportFile
from ray_warmup.scripts.terminal.console import add_row, complain, say, table_of, wide_console
from ray_warmup.scripts.terminal.documents import print_document
from ray_warmup.scripts.terminal.endings import GuardedGroup

app = typer.Typer(
    name="report",
    cls=GuardedGroup,
    help="Show an earlier run as text or as a page, and compare two runs.",
    epilog="Exit codes: 0 done, 1 there is no such report, 2 wrong usage.",
    no_args_is_help=True,
    add_completion=False,
)

MAX_SHOWN = 40
"""Changes of one group that are printed; `--json` has all."""
Source = Annotated[str, typer.Argument(metavar="RUN", help="A file of --report (JSON), or a run of `history`.")]
Root = Annotated[Path | None, typer.Option(help="Cache root of the history, instead of this node's own.")]


@app.command()
def show(
    run: Source,
    html: Annotated[Path | None, typer.Option(help="Write the page to this file instead.")] = None,
    root: Root = None,
) -> None:
    """Print the outcome of an earlier run as `ray-warmup run` did, or write it as a page."""
    from ray_warmup.scripts.reports.reading import find_report
    from ray_warmup.warmup.report import WarmupReport

    report = find_report(run, root)
    if html is not None:
        from ray_warmup.scripts.reports.report_page import report_page

        with ReportFile(html, "--html") as file:
            file.write(report_page(report))
        complain(f"wrote {html}")
        return
    if isinstance(report, WarmupReport):
        from ray_warmup.scripts.views.report import show_report

        show_report(wide_console(), report, whole=True)
        return
    from ray_warmup.scripts.commands.engine_run import show_engine_report

    show_engine_report(wide_console(), report, whole=True)


@app.command()
def compare(
    before: Annotated[str, typer.Argument(metavar="A", help="A file of --report (JSON), or a run of `history`.")],
    after: Annotated[str, typer.Argument(metavar="B", help="The later one.")],
    root: Root = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what changed from one run to another: outcome, versions, seconds, winners, times and sizes.

    Times of tasks that differ by less than 5 % are taken for the same.
    """
    from ray_warmup.scripts.reports.comparison import changes
    from ray_warmup.scripts.reports.reading import find_report

    old, new = find_report(before, root), find_report(after, root)
    try:
        found = changes(old, new)
    except ValueError as error:
        raise ConfigError(f"{before}, {after}: {error}") from error
    if as_json:
        print_document({"before": old.run_id, "after": new.run_id, "changes": [asdict(change) for change in found]})
        return
    console = wide_console()
    if not found:
        say(console, f"nothing of note changed from {old.run_id} to {new.run_id}")
        return
    table = table_of("", "what", f"before ({old.run_id or before})", f"after ({new.run_id or after})")
    for group in dict.fromkeys(change.group for change in found):
        own = [change for change in found if change.group == group]
        for change in own[:MAX_SHOWN]:
            add_row(table, change.group, change.name, change.before, change.after)
        if len(own) > MAX_SHOWN:
            add_row(table, group, f"{len(own) - MAX_SHOWN} more (--json)", "", "")
    console.print(table)
