"""Where `--report` can be written: what is accepted before a run is written after it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_warmup.configs import ConfigError
from ray_warmup.scripts.reports.report_file import ReportFile

DATA = b'{"ready": true}'


def written(path: Path) -> bytes:
    """Accept a path, write, and read what is there."""
    with ReportFile(path) as file:
        file.write(DATA)
    return path.read_bytes()


def link_to_a_file(place: Path) -> Path:
    """An older report, through a link."""
    (place / "real").write_bytes(b"old, and longer than the new one")
    (place / "link").symlink_to("real")
    return place / "link"


def link_to_nothing(place: Path) -> Path:
    """The file is made where the link points."""
    (place / "link").symlink_to(place / "deep" / "real")
    return place / "link"


def linked_directory(place: Path) -> Path:
    """As /var/run and many volumes are."""
    (place / "real").mkdir()
    (place / "link").symlink_to("real")
    return place / "link" / "report.json"


def long_name(place: Path) -> Path:
    """As long as a name may be."""
    return place / ("r" * 255)


def new_directories(place: Path) -> Path:
    """They are made."""
    return place / "a" / "b" / "report.json"


PLACES: tuple[Callable[[Path], Path], ...] = (
    link_to_a_file,
    link_to_nothing,
    linked_directory,
    long_name,
    new_directories,
)


@pytest.mark.parametrize("place", PLACES)
def test_an_ordinary_place_gets_the_report_and_nothing_else(tmp_path: Path, place: Callable[[Path], Path]) -> None:
    """Links stay links, an older report is replaced whole, and no temporary file is left."""
    path = place(tmp_path)
    was_link = path.is_symlink()
    assert written(path) == DATA
    assert path.is_symlink() == was_link
    assert path.stat().st_mode & 0o777 == 0o644
    assert not list(tmp_path.rglob(".*"))


def test_a_run_that_ends_without_a_report_leaves_the_old_one(tmp_path: Path) -> None:
    """Nothing is emptied before there is something to write."""
    path = tmp_path / "report.json"
    path.write_bytes(b"old")
    with ReportFile(path):
        assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]
    assert path.read_bytes() == b"old"


def test_a_directory_that_goes_meanwhile_is_made_again(tmp_path: Path) -> None:
    """A report is owed whatever happened to its directory."""
    path = tmp_path / "new" / "report.json"
    with ReportFile(path) as file:
        for entry in path.parent.iterdir():
            entry.unlink()
        path.parent.rmdir()
        file.write(DATA)
    assert path.read_bytes() == DATA


def test_a_file_that_cannot_be_replaced_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file that is mounted by itself, for example /dev/termination-log."""
    path = tmp_path / "log"
    path.write_bytes(b"old, and longer than the new one")
    inode = path.stat().st_ino
    monkeypatch.setattr(os, "replace", lambda source, target: (_ for _ in ()).throw(OSError(16, "busy")))
    assert written(path) == DATA
    assert path.stat().st_ino == inode
    assert [entry.name for entry in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize("path", ["/dev/null", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/stderr"])
@pytest.mark.parametrize("redirected", [False, True], ids=["pipe", "file"])
def test_outputs_and_devices_are_written_to(tmp_path: Path, path: str, redirected: bool) -> None:
    """Also where the output goes to a file, which keeps what it has."""
    program = (
        "import sys; from pathlib import Path; from ray_warmup.scripts.reports.report_file import ReportFile\n"
        "print('before', flush=True)\n"
        f"with ReportFile(Path({path!r})) as file: file.write({DATA!r})\n"
        "print('after', flush=True)\n"
    )
    log = tmp_path / "log"
    with log.open("wb") as file:
        ran = subprocess.run(
            [sys.executable, "-c", program],
            stdout=file if redirected else subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    assert ran.returncode == 0, ran.stderr
    out = log.read_bytes() if redirected else ran.stdout
    is_stdout = path in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
    assert out == b"before\n" + (DATA if is_stdout else b"") + b"after\n"
    assert ran.stderr == (DATA if path == "/dev/stderr" else b"")


def test_a_pipe_needs_a_reader(tmp_path: Path) -> None:
    """One that is read gets the report; at one that nobody reads a run would wait for ever, so it is refused."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match=f"--report: {path}: cannot be written"):
        ReportFile(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with ReportFile(path) as file:
        file.write(DATA)
    assert os.read(reader, 100) == DATA
    os.close(reader)


@pytest.mark.parametrize("where", ["", "file/report.json", "r" * 256, "a\0b"])
def test_a_place_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path, where: str) -> None:
    """A directory, a path below a file, a name that is too long or none: by option, path and reason."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--report: .*(is a directory|cannot be written: )"):
        ReportFile(tmp_path / where)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    """By option and path."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigError, match=r"--report: .*/a: cannot be written: "):
        ReportFile(tmp_path / "a")
