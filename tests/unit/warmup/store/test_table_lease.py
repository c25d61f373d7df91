"""Who serves from a generation holds it: for the life of the process, renewed, given up at its end."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_warmup.configs.modes import Modes
from ray_warmup.warmup.artifact.artifact import sha256
from ray_warmup.warmup.disk import attempts
from ray_warmup.warmup.store.leases import FOREIGN_LIFETIME_S, held_generations, is_process_alive, process_identity
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.pruning import prune_generations, remove_store
from ray_warmup.warmup.store.table_lease import Holding, hold_table_at
from tests.artifacts import KEY, ROOT, make_artifact, table_bytes
from tests.troubled_disk import TroubledDisk

TABLE = {number: sha256(table_bytes(number)) for number in (1, 2, 3)}


@pytest.fixture
def store(tmp_path: Path) -> NodeStore:
    """Three generations with a table each."""
    found = NodeStore(tmp_path / ("ab" * 32))
    for number in TABLE:
        found.publish(make_artifact(number))
    return found


def leases(store: NodeStore) -> list[Path]:
    """The lease files of a store."""
    return sorted((store.directory / "leases").glob("*.json"))


def test_a_table_is_held_under_its_generation(store: NodeStore) -> None:
    """The generation that has this very table is held; of two with the same table the current one; else nothing."""
    for number, digest in TABLE.items():
        lease = store.hold_table(digest)
        assert lease is not None
        assert (lease.generation, held_generations(store.directory / "leases")) == (number, {number})
        lease.release()
    store.publish(make_artifact(1, created_at=9.0))
    again = store.hold_table(TABLE[1])
    assert again is not None
    assert again.generation == 4
    store.make_current(1)
    older = store.hold_table(TABLE[1])
    assert older is not None
    assert older.generation == 1
    assert store.hold_table("0" * 64) is None


def test_what_a_file_serves_is_held_until_released(store: NodeStore) -> None:
    """Neither its generation nor the store is pruned while it is held, also when another one is current by then."""
    held = hold_table_at(store.table_path)
    assert held is not None
    store.make_current(1)
    assert prune_generations(store, [2, 3]) == [store.generations.manifest_path(2).parent]
    assert remove_store(store) == []
    assert store.generations.has_blob(TABLE[3])
    held.release()
    held.release()
    assert leases(store) == []
    assert remove_store(store) == [store.directory]


def test_a_lone_file_or_a_foreign_table_holds_nothing(store: NodeStore, tmp_path: Path) -> None:
    """A table outside a store, one that no generation has, and a missing one are served without a lease."""
    lone = tmp_path / "autotune_configs.json"
    lone.write_bytes(table_bytes(1))
    assert hold_table_at(lone) is None
    store.table_path.write_bytes(b"{}")
    assert hold_table_at(store.table_path) is None
    store.table_path.unlink()
    assert hold_table_at(store.table_path) is None
    assert hold_table_at(Path("/proc/self/fd/0")) is None
    assert leases(store) == []


def test_a_lease_can_be_read_by_who_can_read_the_store(tmp_path: Path) -> None:
    """On a directory that others use, too, they can read a lease and leave their own, and take away no other's."""
    store = NodeStore(tmp_path / ("ab" * 32), modes=Modes(0o644, 0o755))
    store.publish(make_artifact(1))
    for path in leases(store):
        path.unlink()
    (store.directory / "leases").rmdir()
    held = hold_table_at(store.table_path)
    assert held is not None
    (path,) = leases(store)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o7777) == (0o644, 0o1777)
    held.release()


def test_a_holding_renews_its_lease(store: NodeStore) -> None:
    """A lease that another host would believe for a day only is made young again while its process lives."""
    lease = store.hold(3)
    assert lease.path is not None
    os.utime(lease.path, (1, 1))
    held = Holding(lease, every_s=0.01)
    deadline = time.monotonic() + 10
    while lease.path.stat().st_mtime == 1 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert time.time() - lease.path.stat().st_mtime < FOREIGN_LIFETIME_S
    held.release()
    assert leases(store) == []


def test_an_engine_s_exit_gives_the_lease_up_and_its_death_ends_it(store: NodeStore) -> None:
    """A process that ends removes its lease; one that is killed leaves a file that holds nothing and goes at the next
    lookup."""
    program = (
        "import sys; from pathlib import Path; from ray_warmup.warmup.store.table_lease import hold_table_at\n"
        "held = hold_table_at(Path(sys.argv[1])); print(held.generation, flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(store.table_path)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    for end in ("exit", "kill"):
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == b"3\n"
            assert held_generations(store.directory / "leases") == {3}
            if end == "kill":
                process.send_signal(signal.SIGKILL)
            process.stdin.close()
        assert len(leases(store)) == (1 if end == "kill" else 0)
    store.lookup(KEY)
    assert leases(store) == []


def test_a_zombie_is_dead(store: NodeStore) -> None:
    """A killed process that nobody has waited for holds nothing, though its pid is still taken."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(process.pid)
    assert is_process_alive(identity)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{process.pid}").exists()
    assert is_process_alive(identity) is False
    process.communicate()


def test_a_pid_that_was_given_again_holds_nothing(store: NodeStore) -> None:
    """The pid of a dead holder in a new process: the start time tells them apart."""
    lease = store.hold(3)
    assert lease.path is not None
    document = json.loads(lease.path.read_bytes())
    assert held_generations(lease.path.parent) == {3}
    lease.path.write_text(json.dumps(document | {"start": "1"}))
    assert held_generations(lease.path.parent) == set()


def test_a_forked_child_gives_nothing_up(store: NodeStore) -> None:
    """A child that inherits the holding and ends leaves its parent's lease where it is."""
    held = hold_table_at(store.table_path)
    assert held is not None
    assert threading.active_count() > 1
    held._pid += 1  # as in a child that has taken nothing over
    held.release()
    assert len(leases(store)) == 1
    held._pid -= 1
    held.release()
    assert leases(store) == []


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether it holds within some seconds."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EROFS])
def test_an_error_at_one_renewal_does_not_end_renewing(
    store: NodeStore, troubled_disk: TroubledDisk, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A disk that refuses for a while costs renewals of that while only."""
    monkeypatch.setattr(attempts, "STALE_PAUSES_S", (0.0,))
    lease = store.hold(3)
    assert lease.path is not None
    path = lease.path
    troubled_disk.refuse(path, number, times=6, calls=("utime",))
    held = Holding(lease, every_s=0.02)
    assert eventually(lambda: troubled_disk.refusals == 6)
    with troubled_disk.resting():
        os.utime(path, (1, 1))

    assert eventually(lambda: path.stat().st_mtime > 1)
    held.release()


def test_a_lease_that_was_removed_is_written_again(store: NodeStore) -> None:
    """Who took it for a dead one's, or moved the directory away, does not end what is held."""
    lease = store.hold(3)
    assert lease.path is not None
    held = Holding(lease, every_s=0.01)
    shutil.rmtree(lease.path.parent)

    assert eventually(lambda: held_generations(store.directory / "leases") == {3})
    held.release()
    assert leases(store) == []


def test_a_forked_worker_holds_what_it_serves_from(store: NodeStore) -> None:
    """A process that applies, forks its workers and ends leaves each worker with a lease of its own, until it ends."""
    reader, writer = os.pipe()
    told, tell = os.pipe()
    parent = os.fork()
    if parent == 0:
        held = hold_table_at(store.table_path)
        if os.fork() == 0:
            os.read(told, 1)
            os.write(writer, repr(sorted(held_generations(store.directory / "leases"))).encode())
            os._exit(0 if held is not None else 1)
        os._exit(0)
    os.waitpid(parent, 0)
    os.write(tell, b"x")
    assert os.read(reader, 100) == b"[3]"
    assert eventually(lambda: held_generations(store.directory / "leases") == set())
    for fd in (reader, writer, told, tell):
        os.close(fd)


def test_a_lease_that_cannot_be_given_back_is_a_line_in_the_log(
    store: NodeStore, troubled_disk: TroubledDisk, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a publish nor an artifact that is loaded fails because a lease stays."""
    troubled_disk.refuse(lambda path: path.parent.name == "leases", errno.EROFS, calls=("unlink",))
    assert store.publish(make_artifact(4)).generation == 4
    store.load_artifact()[1].release()

    assert "stays until this process ends" in caplog.text
