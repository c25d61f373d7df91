"""What cannot be read keeps its store: nothing is removed on evidence that nobody could look at."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.warmup.artifact.manifest import Manifest
from ray_warmup.warmup.cache_admin.store_changes import PruneRules, apply_prune, plan_prune, untouchable
from ray_warmup.warmup.disk import attempts
from ray_warmup.warmup.errors import StoreError
from ray_warmup.warmup.store import pruning
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.pruning import collect_garbage, prune_generations, remove_store, sweep_trash
from tests.artifacts import KEY, KEY_SHA256, make_artifact, table_bytes
from tests.cache_requests import perform
from tests.troubled_disk import TroubledDisk

Damage = Callable[[NodeStore, TroubledDisk], object]
ALL = PruneRules(keep_generations=1, older_than_days=0.0, max_bytes=0, installed_version="another")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "STALE_PAUSES_S", (0.0,))


def put(root: Path, name: str = KEY_SHA256) -> NodeStore:
    """Five generations below a root, of which the first is current, and an installation of modules."""
    store = NodeStore(root / "flashinfer_autotune_cache" / "0.7.2" / "90a" / name)
    for number in range(1, 6):
        store.publish(make_artifact(number))
    store.make_current(1)
    modules = store.directory / "installed" / store.current()[1].module_set[:32] / "modules"
    modules.mkdir(parents=True)
    (modules / "gemm.so").write_bytes(b"x")
    return store


@pytest.fixture
def store(tmp_path: Path) -> NodeStore:
    """The store that cannot be read."""
    return put(tmp_path)


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {
        os.path.join(where, name): Path(where, name).read_bytes()
        for where, _, names in os.walk(directory)
        for name in names
    }


def newer_schema(store: NodeStore, disk: TroubledDisk) -> None:
    """A newer ray-warmup has published a generation."""
    path = store.generations.manifest_path(3)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"schema_version": 2}))


def refused(what: str, number: int) -> Damage:
    """A file or directory of the store that the disk does not give out."""
    return lambda store, disk: disk.refuse(lambda path: path.name == what and store.directory in path.parents, number)


DAMAGE: dict[str, Damage] = {
    "manifest of a newer version": newer_schema,
    "damaged manifest": lambda store, disk: store.generations.manifest_path(2).write_bytes(b"{"),
    "damaged pointer": lambda store, disk: store.generations.pointer_path.write_bytes(b"{"),
    "damaged lease": lambda store, disk: (store.directory / "leases" / "x.json").write_bytes(b"{"),
    **{
        f"{what}: {errno.errorcode[number]}": refused(what, number)
        for what in ("manifest.json", "current", "leases", "generations", "blobs")
        for number in (errno.ESTALE, errno.EIO, errno.EACCES, errno.EMFILE)
    },
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_store_that_cannot_be_read_keeps_everything(
    store: NodeStore, tmp_path: Path, troubled_disk: TroubledDisk, damage: str
) -> None:
    """Every rule and every step leaves it as it is and names it; the store beside it is pruned all the same."""
    other = put(tmp_path, "cd" * 32)
    stores = (store.directory, other.directory)
    DAMAGE[damage](store, troubled_disk)
    with troubled_disk.resting():
        before = contents(store.directory)
    plan = plan_prune(stores, ALL, time.time() + 1)
    done = apply_prune(plan, stores, time.time)
    named = untouchable([store.directory])
    for step in (
        lambda: prune_generations(store, [1, 2, 3]),
        lambda: collect_garbage(store),
        lambda: remove_store(store),
    ):
        with pytest.raises(StoreError):
            step()
    troubled_disk.relent()

    assert contents(store.directory) == before
    assert {removal.path for removal in plan} == {str(other.directory)}
    assert not other.directory.exists()
    assert len(named) == 1
    assert str(store.directory) in named[0]
    assert any(str(store.directory) in line for line in done.untouched)


@pytest.mark.parametrize("damage", ["manifest of a newer version", "current: EACCES", "leases: EIO"])
def test_the_command_names_it_and_fails(
    store: NodeStore, tmp_path: Path, troubled_disk: TroubledDisk, damage: str
) -> None:
    """`cache prune`, as a dry run too, is not well where a store cannot be read, and says which."""
    DAMAGE[damage](store, troubled_disk)
    for arguments in ({}, {"yes": True}):
        answer = perform("prune", {"root": str(tmp_path), "keep": 1, "older_than_days": 0.0, **arguments})
        assert (answer["ok"], len(answer["result"]["untouched"])) == (False, 1)
        assert str(store.directory) in answer["result"]["untouched"][0]


def test_what_becomes_unreadable_between_two_looks_is_given_back(
    store: NodeStore, monkeypatch: pytest.MonkeyPatch, troubled_disk: TroubledDisk
) -> None:
    """What was hidden already comes back when the second look fails: generations, blobs, the whole store."""
    move_to_trash = pruning.move_to_trash

    def hide_and_fail(path: Path) -> Path | None:
        trash = move_to_trash(path)
        troubled_disk.refuse(lambda path: path.name == "leases", errno.EIO)
        return trash

    prune_generations(store, [5])
    before = {Path(name).name for name in contents(store.directory)}
    monkeypatch.setattr(pruning, "move_to_trash", hide_and_fail)
    steps: list[Callable[[], Any]] = [
        lambda: prune_generations(store, [2]),
        lambda: collect_garbage(store),
        lambda: remove_store(store),
    ]
    for step in steps:
        with pytest.raises(StoreError):
            step()
        troubled_disk.relent()
        assert {Path(name).name for name in contents(store.directory)} == before
        assert store.generations.numbers() == [1, 2, 3, 4]


def test_a_view_says_could_not_read_and_goes_on(store: NodeStore, tmp_path: Path, troubled_disk: TroubledDisk) -> None:
    """`ls` and `verify` have a row for a store and for a directory that cannot be read, and rows for all others."""
    other = put(tmp_path, "cd" * 32)
    hidden = tmp_path / "flashinfer_autotune_cache" / "0.7.1"
    hidden.mkdir()
    troubled_disk.refuse(lambda path: path == hidden or store.directory in path.parents, errno.EACCES)
    listed = perform("ls", {"root": str(tmp_path)})
    verified = perform("verify", {"root": str(tmp_path)})
    rows = {row["path"]: row for row in listed["result"]}

    assert (listed["ok"], verified["ok"]) == (False, False)
    assert rows.keys() == {row["path"] for row in verified["result"]}
    for path in (store.directory, hidden):
        assert rows[str(path)]["problem"].startswith("could not read")
    assert (rows[str(other.directory)]["current"], rows[str(other.directory)]["is_readable"]) == (1, True)


def test_a_root_that_cannot_be_listed_is_not_empty(tmp_path: Path, troubled_disk: TroubledDisk) -> None:
    """No command says that nothing is stored where it could not look."""
    put(tmp_path)
    troubled_disk.refuse(tmp_path / "flashinfer_autotune_cache", errno.EACCES, calls=("scandir",))
    here = {"root": str(tmp_path), "key": "ab"}
    assert perform("ls", here)["result"][0]["problem"].startswith("could not read")
    for command in ("verify", "prune"):
        assert not perform(command, here)["ok"]
    for command in ("diff", "export", "rollback"):
        assert "could not read" in perform(command, here | {"if_present": True})["error"]


def test_other_versions_files_are_not_collected(store: NodeStore) -> None:
    """A name in a subdirectory that this version does not give is another's and stays."""
    for room in ("blobs", "installed"):
        (store.directory / room / "index-v2").write_text("x")
    assert collect_garbage(store) == []
    assert all((store.directory / room / "index-v2").exists() for room in ("blobs", "installed"))


def test_a_store_that_comes_back_while_it_is_removed_keeps_everything(
    store: NodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder that takes its lease in the worst moment and a marker that makes the directory anew cost nothing."""
    before = contents(store.directory)
    move_to_trash = pruning.move_to_trash

    def hide_and_use(path: Path) -> Path | None:
        store.hold(1)
        trash = move_to_trash(path)
        store.write_marker("run-1-0-00000")
        store.hold(1)
        return trash

    monkeypatch.setattr(pruning, "move_to_trash", hide_and_use)
    assert remove_store(store) == []

    assert before.items() <= contents(store.directory).items()
    assert store.lookup(KEY).table == table_bytes(1)
    assert (store.sees_marker("run-1-0-00000"), len(list((store.directory / "leases").iterdir()))) == (True, 2)
    assert [path.name for path in store.directory.parent.iterdir()] == [KEY_SHA256]


def test_a_held_store_that_was_published_anew_stays_beside_it(
    store: NodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stores cannot lie in one place: the new one stays, the held one is kept hidden and named until it is free."""
    move_to_trash = pruning.move_to_trash
    taken = []

    def hide_and_publish(path: Path) -> Path | None:
        taken.append(store.hold(1))
        trash = move_to_trash(path)
        store.publish(make_artifact(9))
        return trash

    monkeypatch.setattr(pruning, "move_to_trash", hide_and_publish)
    with pytest.raises(StoreError, match="is kept as") as caught:
        remove_store(store)
    trash = Path(str(caught.value.details["path"]))
    os.utime(trash, (1, 1))

    assert store.lookup(KEY).table == table_bytes(9)
    assert (trash / "current").exists()
    with pytest.raises(StoreError, match="is kept as"):
        sweep_trash(store.directory.parent)
    for lease in (trash / "leases").iterdir():
        lease.unlink()
    assert sweep_trash(store.directory.parent) == [trash]
    assert store.lookup(KEY).table == table_bytes(9)


def test_what_a_killed_prune_hid_of_a_generation_in_use_comes_back(store: NodeStore) -> None:
    """An hour later a blob that a generation names and the current generation are given back, never deleted."""
    manifest: Manifest = store.current()[1]
    assert manifest.table is not None
    blob = store.generations.blob_path(manifest.table.sha256)
    for path in (blob, store.generations.manifest_path(1).parent):
        trash = pruning.move_to_trash(path)
        assert trash is not None
        os.utime(trash, (1, 1))
    collect_garbage(store)

    assert blob.exists()
    assert store.generations.manifest_path(1).exists()


def test_a_hidden_generation_keeps_its_blobs_and_its_number(store: NodeStore) -> None:
    """While one pruner decides about a generation, another collects nothing of it and no publisher takes its number."""
    trash = pruning.move_to_trash(store.generations.manifest_path(5).parent)
    assert trash is not None
    assert collect_garbage(store) == []
    assert store.publish(make_artifact(6)).generation == 6
    trash.rename(store.generations.manifest_path(5).parent)
    assert store.load_artifact(generation=5)[0].table == table_bytes(5)
