"""Write a report as one self-contained page: template, style, script, libraries and data in one file."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

from pydantic import JsonValue

from ray_warmup.scripts.reports.engine_page import engine_page_of
from ray_warmup.scripts.reports.page_document import PageDocument, page_of
from ray_warmup.scripts.reports.reading import Report
from ray_warmup.warmup.report import WarmupReport

PAGE = Path(__file__).resolve().parents[1] / "page"
_PLACE = re.compile(r"@@(\w+)@@")
_MAP = re.compile(r"(//|/\*)# sourceMappingURL=\S+( ?\*/)?")
_CLOSING = re.compile(r"</(script|style)", re.IGNORECASE)


def report_page(report: Report) -> bytes:
    """Return the page of a report of either engine."""
    document = page_of(report) if isinstance(report, WarmupReport) else engine_page_of(report)
    return render(document)


def render(document: PageDocument) -> bytes:
    """Fill the template in one pass, so that nothing of the report is taken for a place."""
    parts = {
        "title": _text(document.title),
        "data": data_text(document),
        "css": _part("report.css"),
        "js": _part("report.js"),
        "tabulator_css": _part("vendor/tabulator_simple.min.css"),
        "tabulator_js": _part("vendor/tabulator.min.js"),
        "chart_js": _part("vendor/chart.umd.min.js"),
    }
    template = (PAGE / "report.html").read_text()
    return _PLACE.sub(lambda place: parts[place[1]], template).encode("utf-8", "backslashreplace")


def data_text(document: PageDocument) -> str:
    """Return the document as JSON that cannot end the element it stands in, nor begin another one."""
    plain = _plain(asdict(document))
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(value: JsonValue) -> JsonValue:
    """Rename `class_`, which no Python field can be called."""
    if isinstance(value, dict):
        return {name.rstrip("_"): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _part(name: str) -> str:
    """Return a file of the page, without the name of a source map, which a browser would look for."""
    text = _MAP.sub("", (PAGE / name).read_text())
    return _CLOSING.sub(r"<\\/\1", text)


def _text(value: str) -> str:
    return value.replace("&", "&amp;").replace("<", "&lt;")
