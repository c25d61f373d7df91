"""A node store on other people's disks: stale handles, rooms that cannot be listed, leftovers, group volumes."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from pathlib import Path

import pytest

from ray_warmup.configs.modes import Modes
from ray_warmup.warmup.disk import attempts
from ray_warmup.warmup.store.leases import process_identity
from ray_warmup.warmup.store.node_store import NodeStore, StorePath
from tests.artifacts import KEY, KEY_SHA256, make_artifact, table_bytes
from tests.troubled_disk import TroubledDisk


@pytest.fixture
def store(tmp_path: Path) -> NodeStore:
    """A store that is not there yet."""
    return NodeStore(tmp_path / KEY_SHA256)


@pytest.mark.parametrize("what", ["current", "manifest.json", "autotune_configs.json", "blob"])
def test_a_stale_handle_is_no_reason_to_tune_again(
    store: NodeStore, troubled_disk: TroubledDisk, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """What NFS says of a file that another client has just replaced is asked again, at every file of a lookup."""
    monkeypatch.setattr(attempts, "STALE_PAUSES_S", (0.0, 0.0, 0.0))
    store.publish(make_artifact(1))
    if what == "blob":
        store.table_path.unlink()
    troubled_disk.refuse(
        lambda path: path.name == what or (what == "blob" and path.parent.name == "blobs"), errno.ESTALE, times=3
    )
    found = store.lookup(KEY)

    assert (found.hit, found.table) == (True, table_bytes(1))
    assert troubled_disk.refusals == 3


def test_trouble_while_sweeping_is_no_miss(store: NodeStore, troubled_disk: TroubledDisk) -> None:
    """A room that cannot be listed costs what would have been swept there."""
    store.publish(make_artifact(1))
    troubled_disk.refuse(store.directory / "leases", errno.EACCES)
    assert store.lookup(KEY).hit


def test_what_killed_runs_left_is_swept(tmp_path: Path) -> None:
    """Markers and crash records go a day later, partial results a week later; a live process's record stays."""
    store = NodeStore(tmp_path / "k")
    store.publish(make_artifact(1))
    mine = {"process": process_identity(os.getpid()), "method": "tune"}
    other = {"process": {"pid": 1, "start": "1", "host": "another"}, "method": "tune"}
    files = {
        "markers/run-1-0-0000": b"x",
        "running/run-1-0": json.dumps(other).encode().ljust(4096),
        "running/run-1-0.stack": b"",
        "running/run-1-1": b"x",
        "running/run-2-0": json.dumps(mine).encode().ljust(4096),
        "running/run-2-0.stack": b"",
        "partial/abc.json": b"{}",
    }
    for name, data in files.items():
        (store.directory / name).parent.mkdir(exist_ok=True)
        (store.directory / name).write_bytes(data)

    def left(age_s: float) -> set[str]:
        for name in files:
            if (store.directory / name).exists():
                os.utime(store.directory / name, (time.time() - age_s, time.time() - age_s))
        store.lookup(KEY)
        return {name for name in files if (store.directory / name).exists()}

    assert left(3600) == files.keys()
    assert left(2 * 86400) == {"running/run-2-0", "running/run-2-0.stack", "partial/abc.json"}
    assert left(8 * 86400) == {"running/run-2-0", "running/run-2-0.stack"}


def test_a_store_on_a_group_volume_stays_the_group_s(tmp_path: Path) -> None:
    """Below a directory of mode 2775, as Kubernetes makes one for `fsGroup`, every level and file is the group's."""
    volume = tmp_path / "volume"
    volume.mkdir()
    if os.geteuid() == 0:
        os.chown(volume, 0, 3000)
    volume.chmod(0o2775)
    store = NodeStore(StorePath.of(volume, None, "0.7.2", "90a", KEY_SHA256), modes=Modes(0o640, 0o770))
    store.publish(make_artifact(1))
    store.save_partial([{"task_id": "a"}])
    below = list(volume.rglob("*"))

    assert {path.lstat().st_gid for path in below} == {volume.stat().st_gid}
    assert {stat.S_IMODE(path.stat().st_mode) & ~stat.S_ISVTX for path in below if path.is_dir()} == {0o2770}
    assert store.lookup(KEY).hit
