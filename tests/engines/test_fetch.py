"""A wheel lies in the directory whole or not at all, and is fetched once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.engines import fetch

WHEEL = "vllm-0.33.0-cp38-abi3-manylinux_2_28_x86_64.whl"
DOWNLOAD = """#!/usr/bin/env bash
echo "$*" >> "{asked}"
while [ "$1" != --dest ]; do shift; done
echo bytes > "$2/{wheel}"
exit {code}
"""


def download(directory: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> Path:
    """Stand in for the interpreter whose pip downloads; return the file that lists how it was called."""
    asked, program = directory / "asked", directory / "python"
    program.write_text(DOWNLOAD.format(asked=asked, wheel=WHEEL, code=code))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(sys, "argv", ["fetch", "vllm==0.33.0"])
    monkeypatch.setenv("ENGINE_WHEELS", str(directory / "wheels"))
    return asked


def test_a_download_that_breaks_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a wheel is not taken for one, and the reason is one line."""
    download(tmp_path, monkeypatch, code=1)
    with pytest.raises(SystemExit, match=r"vllm==0\.33\.0 could not be fetched: pip ended with exit code 1"):
        fetch.main()
    assert list((tmp_path / "wheels").iterdir()) == []


def test_a_wheel_that_is_there_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call downloads nothing."""
    asked = download(tmp_path, monkeypatch, code=0)
    fetch.main()
    fetch.main()
    assert [entry.name for entry in (tmp_path / "wheels").iterdir()] == [WHEEL]
    assert len(asked.read_text().splitlines()) == 1
