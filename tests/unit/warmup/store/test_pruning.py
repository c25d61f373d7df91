"""Pruning: what nobody uses goes, what is current, held or being published stays."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ray_warmup.warmup.errors import StoreError
from ray_warmup.warmup.store import leases, pruning
from ray_warmup.warmup.store.generations import Pointer
from ray_warmup.warmup.store.inventory import LOOKS, take_inventory
from ray_warmup.warmup.store.leases import FOREIGN_LIFETIME_S, PUBLISHING, held_generations
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.pruning import collect_garbage, prune_generations, remove_store
from tests.artifacts import KEY, ROOT, make_artifact, table_bytes


@pytest.fixture
def store(tmp_path: Path) -> NodeStore:
    """A store with three generations; the third is current."""
    store = NodeStore(tmp_path / "key")
    for number in (1, 2, 3):
        store.publish(make_artifact(number))
    return store


def test_old_generations_and_their_blobs_go(store: NodeStore) -> None:
    """Asked for all, pruning keeps the current generation and exactly its blobs."""
    prune_generations(store, [1, 2, 3])
    removed = collect_garbage(store)

    assert store.generations.numbers() == [3]
    assert store.lookup(KEY).table == table_bytes(3)
    assert len(removed) == 4
    assert {path.name for path in (store.directory / "blobs").iterdir()} == {
        blob.sha256 for blob in make_artifact(3).manifest.blobs
    }


def test_held_generation_stays(store: NodeStore) -> None:
    """A generation that a live process holds is not removed, nor are its blobs; after the release it is."""
    with_lease = store.hold(1)
    assert prune_generations(store, [1]) == []
    collect_garbage(store)
    assert store.table_of(pruning.manifests(store)[1]) == table_bytes(1)
    with_lease.release()

    assert [path.name for path in prune_generations(store, [1])] == ["000001"]


def test_nothing_is_collected_while_someone_publishes(store: NodeStore) -> None:
    """A publisher relies on blobs that it saw; none goes while its lease is live."""
    prune_generations(store, [1])
    lease = store.hold(PUBLISHING)

    assert collect_garbage(store) == []
    lease.release()
    assert len(collect_garbage(store)) == 2


def test_lease_taken_between_hiding_and_deciding_wins(store: NodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that takes its lease in the worst moment gets the generation back."""
    move_to_trash = pruning.move_to_trash
    taken = []

    def hide_and_hold(path: Path) -> Path | None:
        trash = move_to_trash(path)
        taken.append(store.hold(1))
        return trash

    monkeypatch.setattr(pruning, "move_to_trash", hide_and_hold)

    assert prune_generations(store, [1]) == []
    assert store.generations.numbers() == [1, 2, 3]


def test_publish_between_hiding_and_deciding_wins(store: NodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publish that uses a blob in the worst moment keeps it."""
    prune_generations(store, [1])
    move_to_trash = pruning.move_to_trash
    done = []

    def hide_and_publish(path: Path) -> Path | None:
        trash = move_to_trash(path)
        if not done:
            done.append(store.publish(make_artifact(1)))
        return trash

    monkeypatch.setattr(pruning, "move_to_trash", hide_and_publish)
    collect_garbage(store)

    assert store.lookup(KEY).table == table_bytes(1)
    assert store.load_artifact()[0].table == table_bytes(1)


@pytest.mark.parametrize("moves", [1, LOOKS])
def test_a_look_during_which_the_current_generation_goes_is_repeated(
    store: NodeStore, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    """Others publish and prune between its pointer and its manifests. Given up only where that happens each time."""
    publishing = NodeStore(store.directory)
    numbers = store.generations.numbers
    current = iter(range(3, 3 + moves))

    def numbers_after_others() -> list[int]:
        old = next(current, None)
        if old is not None:
            publishing.publish(make_artifact(old + 1))
            shutil.rmtree(store.generations.manifest_path(old).parent)
        return numbers()

    monkeypatch.setattr(store.generations, "numbers", numbers_after_others)
    if moves < LOOKS:
        found = take_inventory(store)
        assert found.pointer == store.generations.pointer()
        assert sorted(found.manifests) == [1, 2, 4]
    else:
        with pytest.raises(StoreError, match="so nothing of it is touched: generation 12 has gone"):
            take_inventory(store)


def test_leases_of_dead_processes_end_at_once(store: NodeStore) -> None:
    """A killed holder's lease is seen to be dead by pid and start time, and removed."""
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from ray_warmup.warmup.store.node_store import NodeStore\n"
        "NodeStore(Path(sys.argv[1])).hold(1); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(store.directory)],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    room = store.directory / "leases"

    assert len(list(room.iterdir())) == 1
    assert held_generations(room) == set()
    assert list(room.iterdir()) == []


@pytest.mark.parametrize(("age", "generations"), [(10.0, {1}), (FOREIGN_LIFETIME_S + 10, set())])
def test_foreign_leases_are_believed_for_a_day(store: NodeStore, age: float, generations: set[int]) -> None:
    """A holder on another host cannot be checked: it counts until a day after its last renewal."""
    lease = foreign_lease(store)
    os.utime(lease, (time.time() - age, time.time() - age))

    assert held_generations(lease.parent) == generations
    assert lease.exists() is bool(generations)


def foreign_lease(store: NodeStore) -> Path:
    """A lease on generation 1 of a process that this host cannot see."""
    lease = store.hold(1)
    assert lease.path is not None
    document = json.loads(lease.path.read_bytes()) | {"host": "another host"}
    lease.path.write_text(json.dumps(document))
    return lease.path


def test_no_host_s_clock_decides_how_old_a_lease_is(store: NodeStore) -> None:
    """A pruner whose clock is a day ahead believes a lease that was renewed now: the disk says how old it is."""
    lease = foreign_lease(store)

    assert held_generations(lease.parent, lambda: time.time() + 25 * 3600) == {1}
    assert lease.exists()
    assert [path for path in lease.parent.iterdir() if path != lease] == []


def test_a_lease_from_the_future_ends_in_a_day(store: NodeStore) -> None:
    """A time that nobody can have written yet pins nothing for years: it counts from its last change."""
    lease = foreign_lease(store)
    ahead = time.time() + 10 * 365 * 86400
    os.utime(lease, (ahead, ahead))

    assert held_generations(lease.parent, remove_dead=False) == {1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "DiskClock", lambda directory, clock: lambda: time.time() + 25 * 3600)
        assert held_generations(lease.parent) == set()


def test_holders_on_a_host_without_a_boot_id_are_believed(store: NodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two containers of one hostname whose boot cannot be told never take each other's processes for dead."""
    monkeypatch.setattr(leases, "_host_identity", lambda: "unknown-" + os.uname().nodename)
    lease = store.hold(1)
    assert lease.path is not None
    monkeypatch.setattr(leases, "start_time", lambda pid: "999999")  # the other container has a pid of that number

    assert held_generations(lease.path.parent) == {1}
    assert lease.path.exists()


def test_a_process_that_cannot_be_looked_at_is_believed(store: NodeStore) -> None:
    """A pruner that has no file left to open takes nobody for dead."""
    lease = store.hold(1)
    assert lease.path is not None
    text = lease.path.read_text()
    open_file = Path.read_bytes

    def refused(self: Path) -> bytes:
        if self.parts[:2] == ("/", "proc"):
            raise OSError(errno.EMFILE, "Too many open files", str(self))
        return open_file(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", refused)
        assert held_generations(lease.path.parent) == {1}
    assert lease.path.read_text() == text


def test_unreadable_lease_stops_pruning_for_a_day(store: NodeStore) -> None:
    """A damaged lease holds everything while it is young: better too much than what someone uses."""
    path = store.directory / "leases" / "bad.json"
    path.write_text("{")

    with pytest.raises(StoreError, match=r"bad\.json cannot be read"):
        prune_generations(store, [1, 2])
    os.utime(path, (1, 1))
    assert len(prune_generations(store, [1, 2])) == 2


def test_whole_store_goes_unless_it_is_held(store: NodeStore) -> None:
    """Removing a key's directory leaves nothing beside it; a holder keeps all of it, at every moment."""
    lease = store.hold(3)
    before = store.directory.stat().st_ctime_ns
    assert remove_store(store) == []
    assert store.directory.stat().st_ctime_ns == before  # not even renamed
    assert store.lookup(KEY).hit
    lease.release()

    assert remove_store(store) == [store.directory]
    assert list(store.directory.parent.iterdir()) == []
    assert remove_store(store) == []


def test_trash_of_a_killed_prune_is_swept(store: NodeStore) -> None:
    """What a prune hid and never removed goes an hour later; a young one stays."""
    blobs = store.directory / "blobs"
    hidden = pruning.move_to_trash(next(blobs.iterdir()))
    assert hidden is not None
    collect_garbage(store)
    assert hidden.exists()
    os.utime(hidden, (1, 1))
    collect_garbage(store)

    assert not hidden.exists()


def test_what_a_killed_prune_hid_is_taken_back_by_who_needs_it(store: NodeStore) -> None:
    """A pruner that died over the current generation and its blobs costs nobody anything."""
    for path in [store.generations.manifest_path(3).parent, *(store.directory / "blobs").iterdir()]:
        pruning.move_to_trash(path)

    assert store.lookup(KEY).table == table_bytes(3)
    assert store.load_artifact()[0].digest == make_artifact(3).digest


def test_generation_that_is_being_committed_is_not_pruned(store: NodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher that is slow between its manifest and its commit finds both when it goes on."""
    commit = store.generations.commit

    def slow_commit(pointer: Pointer) -> None:
        other = NodeStore(store.directory)
        prune_generations(other, other.generations.numbers())
        collect_garbage(other)
        commit(pointer)

    monkeypatch.setattr(store.generations, "commit", slow_commit)
    store.publish(make_artifact(4))

    assert store.lookup(KEY).table == table_bytes(4)
    assert store.generations.numbers() == [3, 4]


def test_lookup_follows_when_its_generation_is_pruned_meanwhile(
    store: NodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that was slow after reading `current` gets the next artifact, not a miss."""
    read_blob = store.generations.read_blob
    slow = [True]

    def slow_read_blob(digest: str) -> bytes:
        if slow.pop() if slow else False:
            other = NodeStore(store.directory)
            other.publish(make_artifact(4))
            prune_generations(other, [3])
            collect_garbage(other)
        return read_blob(digest)

    monkeypatch.setattr(store.generations, "read_blob", slow_read_blob)
    store.table_path.write_bytes(b"another program's")

    assert store.lookup(KEY).table == table_bytes(4)
