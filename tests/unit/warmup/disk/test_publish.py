"""One file, atomically: complete or absent, in friendly and in hostile surroundings."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_warmup.configs.modes import Modes
from ray_warmup.warmup.disk import publish
from ray_warmup.warmup.disk.publish import publish_bytes, sweep
from ray_warmup.warmup.errors import StoreError
from tests.artifacts import ROOT

TEMP = ".table.json.0123456789abcdef.tmp"


def test_bytes_and_modes_are_as_asked(tmp_path: Path) -> None:
    """File and new directories get exactly the modes that were asked for, whatever the umask."""
    path = tmp_path / "a" / "b" / "table.json"

    publish_bytes(path, b"new", modes=Modes(0o640, 0o750))

    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [stat.S_IMODE(p.stat().st_mode) for p in (path.parent, path.parent.parent)] == [0o750, 0o750]
    assert [p.name for p in path.parent.iterdir()] == ["table.json"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(versions=st.lists(st.binary(max_size=5000), min_size=1, max_size=4), nameless=st.booleans())
def test_the_last_publish_stays(tmp_path: Path, versions: list[bytes], nameless: bool) -> None:
    """Any sequence of contents, by either way of writing, leaves the last one and no temporary file."""
    path = tmp_path / "table.json"
    with pytest.MonkeyPatch.context() as patch:
        if not nameless:
            patch.setattr(publish, "_write_nameless", lambda *_: False)
        for version in versions:
            publish_bytes(path, memoryview(version))

    assert path.read_bytes() == versions[-1]
    assert list(tmp_path.iterdir()) == [path]


def test_file_size_limit_keeps_the_old_file(tmp_path: Path) -> None:
    """A write that hits RLIMIT_FSIZE is a StoreError naming path, errno and setting; the old bytes stay, no temp."""
    path = tmp_path / "table.json"
    publish_bytes(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StoreError, match=r"table\.json: File too large .*cache\.root") as caught:
            publish_bytes(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    assert caught.value.details["setting"] == "cache.root"


def test_path_below_a_file_is_refused(tmp_path: Path) -> None:
    """A directory that cannot exist is a StoreError, not a traceback."""
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StoreError, match="Not a directory"):
        publish_bytes(tmp_path / "file" / "sub" / "table.json", b"x")


def test_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    """ENOSPC on a tiny tmpfs is a StoreError; the old file stays."""
    mount = tmp_path / "tiny"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("no tmpfs can be mounted here")
    try:
        publish_bytes(mount / "table.json", b"old")
        with pytest.raises(StoreError, match="No space left"):
            publish_bytes(mount / "table.json", b"x" * 200_000)

        assert (mount / "table.json").read_bytes() == b"old"
        assert len(list(mount.iterdir())) == 1
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_read_only_mount_is_refused(tmp_path: Path) -> None:
    """A read-only file system is a StoreError also for root."""
    mount = tmp_path / "read_only"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,ro", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("no tmpfs can be mounted here")
    try:
        with pytest.raises(StoreError, match="Read-only"):
            publish_bytes(mount / "sub" / "table.json", b"x")
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.parametrize("what", ["link", "directory", "pipe"])
def test_target_that_is_no_regular_file_is_refused(tmp_path: Path, what: str) -> None:
    """A link, a directory or a pipe in the target's place is refused and left as it was."""
    path, elsewhere = tmp_path / "table.json", tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    {"link": lambda: path.symlink_to(elsewhere), "directory": path.mkdir, "pipe": lambda: os.mkfifo(path)}[what]()
    before = path.lstat().st_mode

    with pytest.raises(StoreError):
        publish_bytes(path, b"x")

    assert (path.lstat().st_mode, elsewhere.read_text()) == (before, "precious")


def test_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """The target's own directory is never reached through a symbolic link; nothing appears behind it."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StoreError):
        publish_bytes(tmp_path / "store" / "table.json", b"x")

    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_another_users_directory_is_refused(tmp_path: Path) -> None:
    """A process that is not root does not publish into a third user's directory, even a writable one."""
    if os.geteuid() != 0:
        pytest.skip("only root can make another user's directory")
    base = Path("/dev/shm") / f"ray-warmup-owner-{os.getpid()}"
    store = base / "store"
    store.mkdir(parents=True)
    base.chmod(0o777)
    store.chmod(0o777)
    os.chown(store, 1234, 1234)
    program = (
        "import sys; from pathlib import Path; from ray_warmup.warmup.disk.publish import publish_bytes\n"
        "from ray_warmup.warmup.errors import StoreError\n"
        "for directory in sys.argv[1:]:\n"
        "    try: publish_bytes(Path(directory) / 'table.json', b'x'); print('written')\n"
        "    except StoreError as error: print(error)\n"
    )
    try:
        done = subprocess.run(
            ["/usr/bin/env", "python3", "-c", program, str(store), str(base / "own")],
            env={"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
            user=4321,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"another user cannot run Python here: {done.stderr[-200:]}")
        refused, written = done.stdout.splitlines()

        assert "belongs to user 1234" in refused
        assert written == "written"
    finally:
        subprocess.run(["rm", "-rf", str(base)], check=True)


def test_directory_removed_meanwhile_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that vanishes between two attempts is created anew; one that always vanishes is a StoreError."""
    path = tmp_path / "store" / "table.json"
    opened = publish._directory
    times = iter([True, False])

    def vanish(directory: Path) -> object:
        if next(times, True):
            directory.rmdir()
        return opened(directory)

    monkeypatch.setattr(publish, "_directory", vanish)
    publish_bytes(path, b"x")

    assert path.read_bytes() == b"x"
    path.unlink()
    with pytest.raises(StoreError, match="No such file"):
        publish_bytes(path, b"x")


def test_a_temporary_file_that_is_swept_too_early_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock steps ahead and somebody sweeps the file that is about to be published: it is there after all."""
    rename, swept = os.replace, list[Path]()

    def step(*arguments: object, **options: object) -> None:
        if not swept:
            swept.extend(sweep(tmp_path, now=time.time() + 7200))
        rename(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", step)
    publish_bytes(tmp_path / "table.json", b"x")
    assert len(swept) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]
    assert (tmp_path / "table.json").read_bytes() == b"x"


def test_sweep_removes_only_old_temporary_files(tmp_path: Path) -> None:
    """Only our own pattern, only when older than the limit, and never through a link."""
    keep = tmp_path / "precious"
    keep.write_text("x")
    for name, age in ((TEMP, 4000), (".table.json.aaaaaaaaaaaaaaaa.tmp", 10), ("other.tmp", 4000)):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    link = tmp_path / ".link.json.bbbbbbbbbbbbbbbb.tmp"
    link.symlink_to(keep)
    os.utime(link, (0, 0), follow_symlinks=False)

    assert sorted(sweep(tmp_path, now=1e9)) == [link, tmp_path / TEMP]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".table.json.aaaaaaaaaaaaaaaa.tmp", "other.tmp", "precious"]
    assert sweep(tmp_path / "nowhere") == []


def test_new_directories_are_on_the_disk_before_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every directory that gets a new entry is flushed, those that a first publish makes included."""
    flushed: set[str] = set()
    fsync = os.fsync

    def watched(fd: int) -> None:
        flushed.add(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    publish_bytes(tmp_path / "a" / "b" / "table.json", b"x")

    assert {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")} <= flushed


def test_directories_below_a_setgid_directory_keep_bit_and_group(tmp_path: Path) -> None:
    """On a volume of mode 2775, as a group volume is mounted, every new level stays with the volume's group."""
    volume = tmp_path / "volume"
    volume.mkdir()
    if os.geteuid() == 0:
        os.chown(volume, 0, 3000)
    volume.chmod(0o2775)
    publish_bytes(volume / "a" / "b" / "table.json", b"x", modes=Modes(0o640, 0o770))

    for path in (volume / "a", volume / "a" / "b"):
        assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_gid) == (0o2770, volume.stat().st_gid)
    assert (volume / "a" / "b" / "table.json").stat().st_gid == volume.stat().st_gid


def test_an_error_names_what_its_caller_can_change(tmp_path: Path) -> None:
    """Who writes elsewhere than into the cache is not told to change the cache's root."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="name another FILE") as caught:
        publish_bytes(tmp_path / "file" / "x", b"x", advice=publish.Advice("FILE", "name another FILE"))
    assert (caught.value.details["setting"], "cache.root" in str(caught.value)) == ("FILE", False)
