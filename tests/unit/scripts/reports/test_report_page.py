"""A page is one file without a network, whose data cannot end the element it stands in."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ray_warmup.scripts.cli import app
from ray_warmup.scripts.reports.page_document import page_of
from ray_warmup.scripts.reports.reading import parse_report
from ray_warmup.scripts.reports.report_page import PAGE, data_text, report_page
from ray_warmup.warmup.report import WarmupReport
from tests.page_reports import HOSTILE, report

RUN = "ray_warmup.scripts.commands.run.run_warmup"
MAX_BYTES = 3_000_000


def test_data_cannot_end_its_element() -> None:
    """No `<`, `>` or line separator of the report is in it, and it is the same data when it is read."""
    document = page_of(report(8, 84, is_ready=False))
    text = data_text(document)
    assert not set("<>&\u2028\u2029") & set(text)
    assert HOSTILE in json.loads(text)["error"]
    page = report_page(report(8, 84, is_ready=False)).decode()
    scripts = re.findall(r"<script[^>]*>", page)
    assert len(scripts) == page.count("</script>") == 4


def test_nothing_is_fetched() -> None:
    """No element or style names another file, and the policy forbids it."""
    page = report_page(report(1, 39)).decode()
    assert "default-src 'none'" in page
    assert "sourceMappingURL" not in page
    assert not re.search(r"<(link|iframe)\b|<script[^>]*\bsrc=|@import", page)
    styles = "".join(re.findall(r"<style>(.*?)</style>", page, re.DOTALL))
    assert set(re.findall(r"url\(\W?\w+:", styles)) <= {"url('data:", 'url("data:', "url(data:"}


def test_a_large_run_is_small() -> None:
    """256 ranks and 5,000 tasks."""
    assert len(report_page(report(256, 5000))) < MAX_BYTES


def test_libraries_are_named_with_their_licences() -> None:
    """Each vendored file is in the list of licences."""
    licences = (PAGE / "vendor/LICENSES.md").read_text()
    files = [path.name for path in (PAGE / "vendor").iterdir() if path.suffix in (".js", ".css")]
    assert len(files) == 3
    assert [name for name in files if name not in licences] == []
    assert licences.count("Permission is hereby granted, free of charge") == 2


def test_run_writes_a_page_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--report out.html` is the page, `--report out.json` the report; `report show` makes one of the other."""
    monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(RUN, lambda *arguments, **options: report(8, 84))
    for name in ("out.html", "out.json"):
        result = CliRunner().invoke(app, ["run", "--report", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
    assert (tmp_path / "out.html").read_bytes().startswith(b"<!doctype html>")
    assert isinstance(parse_report((tmp_path / "out.json").read_bytes()), WarmupReport)
    for source in (str(tmp_path / "out.json"), "4ce1d2a0"):
        result = CliRunner().invoke(app, ["report", "show", source, "--html", str(tmp_path / "shown.html")])
        assert result.exit_code == 0, result.output
        assert (tmp_path / "shown.html").read_bytes() == (tmp_path / "out.html").read_bytes()
