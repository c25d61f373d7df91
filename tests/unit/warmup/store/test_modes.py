"""Modes are the store's in every command, questions write nothing, and whoever may read a store may hold it."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_warmup.configs.modes import Modes
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.artifact import sha256
from ray_warmup.warmup.cache_admin.store_changes import PruneRules, apply_prune, plan_prune
from ray_warmup.warmup.cache_admin.store_inspection import explain
from ray_warmup.warmup.store import leases
from ray_warmup.warmup.store.leases import process_identity
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.table_lease import hold_table_at
from ray_warmup.warmup.store.verdict import StoredVerdict
from tests.artifacts import KEY, KEY_SHA256, make_artifact, table_bytes
from tests.cache_requests import perform

MODES = Modes(0o640, 0o750)


@pytest.fixture
def store(tmp_path: Path) -> NodeStore:
    """Two generations that a group may read."""
    found = NodeStore(tmp_path / "flashinfer_autotune_cache" / "0.7.2" / "90a" / KEY_SHA256, modes=MODES)
    for number in (1, 2):
        found.publish(make_artifact(number))
    return found


def mode(path: Path) -> int:
    """Permissions with setgid and sticky bits."""
    return stat.S_IMODE(path.stat().st_mode)


def snapshot(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Everything below a directory: when it was changed, its mode and size."""
    paths = [directory, *directory.rglob("*")]
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_mode, path.lstat().st_size) for path in paths}


def test_a_rollback_keeps_the_modes_of_the_store(store: NodeStore, tmp_path: Path) -> None:
    """Whoever could read the table before it can read it afterwards, and the leases that it took."""
    done = perform("rollback", {"root": str(tmp_path), "key": KEY_SHA256[:8]})

    assert (done["ok"], store.lookup(KEY).generation) == (True, 1)
    files = [path for path in store.directory.iterdir() if path.is_file()]
    assert {mode(path) for path in files} == {0o640}


def test_an_import_without_a_config_keeps_the_modes_of_the_store(store: NodeStore, tmp_path: Path) -> None:
    """Whoever could read the table before it can read it afterwards; a config's modes win."""
    data = perform("export", {"root": str(tmp_path), "file": None})["result"]["data"]
    store.make_current(1)
    assert perform("import", {"root": str(tmp_path), "data": data})["ok"]
    assert (store.lookup(KEY).generation, mode(store.table_path)) == (2, 0o640)
    elsewhere = {"root": str(tmp_path / "new"), "data": data, "config": "given", "cache": CacheSection(file_mode=0o644)}
    assert mode(Path(perform("import", elsewhere)["result"]["path"])) == 0o644


def test_a_store_that_is_opened_without_modes_has_its_own(store: NodeStore) -> None:
    """Files, directories and leases that anybody adds later are like those that are there."""
    other = NodeStore(store.directory)
    other.save_partial([{"task_id": "a"}])
    lease = other.hold(1)
    assert lease.path is not None

    assert {mode(path) for path in (store.directory / "partial").iterdir()} == {0o640}
    assert (mode(store.directory / "partial"), mode(lease.path)) == (0o750, 0o640)
    assert mode(NodeStore(store.directory.with_name("ef" * 32)).save_verdict(StoredVerdict("r", True, 1.0))) == 0o600


QUESTIONS: dict[str, Callable[[NodeStore, Path], object]] = {
    "a dry run of prune": lambda store, root: perform("prune", {"root": str(root), "keep": 1, "older_than_days": 0}),
    "ls": lambda store, root: perform("ls", {"root": str(root)}),
    "verify": lambda store, root: perform("verify", {"root": str(root)}),
    "diff": lambda store, root: perform("diff", {"root": str(root)}),
    "explain": lambda store, root: explain(store.directory, KEY, (store.directory,)),
    "a question's lookup": lambda store, root: NodeStore(store.directory).lookup(KEY, read_only=True),
    "a planned rollback": lambda store, root: perform("rollback", {"root": str(root), "plan": True}),
    "an export": lambda store, root: perform("export", {"root": str(root), "file": None}),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_questions_write_nothing(store: NodeStore, tmp_path: Path, question: str) -> None:
    """Neither a lease of a dead process, nor a stale temporary file, nor a changed table is touched."""
    dead = store.hold(1)
    assert dead.path is not None
    dead.path.write_text(json.dumps(json.loads(dead.path.read_bytes()) | {"start": "1"}))
    stale = store.directory / "blobs" / ".x.0123456789abcdef.tmp"
    stale.touch()
    for path in (stale, dead.path):
        os.utime(path, (1, 1))
    store.table_path.write_bytes(b"{}")
    before = snapshot(tmp_path)
    QUESTIONS[question](store, tmp_path)

    assert snapshot(tmp_path) == before


def test_a_question_tells_the_committed_table_and_that_it_is_not_at_its_path(store: NodeStore) -> None:
    """A hit that engines would not find says so."""
    assert store.lookup(KEY, read_only=True).on_disk
    store.table_path.unlink()
    found = store.lookup(KEY, read_only=True)
    assert (found.hit, found.table, found.on_disk, len(found.warnings)) == (True, table_bytes(2), False, 1)
    assert store.lookup(KEY).on_disk


@pytest.mark.parametrize(
    ("dir_mode", "room"),
    [(0o700, 0o700), (0o750, 0o1770), (0o755, 0o1777), (0o770, 0o1770), (0o775, 0o1777), (0o711, 0o711)],
)
def test_whoever_may_enter_a_store_may_leave_a_lease(tmp_path: Path, dir_mode: int, room: int) -> None:
    """The directory for leases is writable for them, and sticky; an older one of ours is opened."""
    store = NodeStore(tmp_path / "key", modes=Modes(0o600, dir_mode))
    (tmp_path / "key" / "leases").mkdir(parents=True, mode=0o700)
    (tmp_path / "key" / "leases").chmod(dir_mode)
    store.hold(1)
    assert mode(tmp_path / "key" / "leases") == room | dir_mode


def as_user(uid: int, work: Callable[[], object]) -> str:
    """What a child process of this user, who is in no group, answers."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        answer = "the child could not change its user"
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            answer = str(work())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        finally:
            os.write(writer, answer.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        answer = file.read()
    os.waitpid(child, 0)
    return answer


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")
@pytest.mark.parametrize("writer", [0, 1001])
def test_an_engine_of_another_user_holds_what_it_serves(writer: int) -> None:
    """On a store that it may only read, its lease keeps generation and modules from the writer's prune."""
    base = Path("/dev/shm") / f"ray-warmup-holding-{os.getpid()}"
    base.mkdir(mode=0o755)
    os.chown(base, writer, writer)
    path = base / KEY_SHA256

    def publish(*numbers: int) -> None:
        for number in numbers:
            NodeStore(path, modes=Modes(0o644, 0o755)).publish(make_artifact(number))

    def hold() -> object:
        lease = hold_table_at(path / "autotune_configs.json")
        return None if lease is None else lease.generation

    def prune() -> object:
        done = apply_prune(plan_prune([path], PruneRules(keep_generations=1), 2e9), [path], lambda: 2e9)
        return (len(done.kept) > 0, done.untouched)

    try:
        assert as_user(writer, lambda: publish(1)) == "None"
        held = as_user(1500, hold)
        (lease,) = (path / "leases").iterdir()
        lease.write_text(json.dumps(json.loads(lease.read_bytes()) | process_identity(os.getpid())))  # it lives on
        as_user(writer, lambda: publish(2, 3, 4, 5))
        pruned = as_user(writer, prune)

        assert lease.stat().st_uid == 1500
        assert held in ("1", "-1")  # all of it where the engine cannot tell which
        assert pruned == "(True, ())"
        assert 1 in NodeStore(path).generations.numbers()
    finally:
        shutil.rmtree(base)


def test_who_holds_nothing_is_told(store: NodeStore, caplog: pytest.LogCaptureFixture) -> None:
    """Where no lease can be left, and where no generation has the table, a warning says that nothing is held."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "publish_bytes", _refuse)
        assert hold_table_at(store.table_path) is None
    assert "no lease can be left in its store" in caplog.text
    assert hold_table_at(store.table_path, b"another") is None
    assert "no generation of its store has this table" in caplog.text


def _refuse(path: Path, *rest: object, **named: object) -> None:
    raise leases.store_error("write", path, OSError(30, "Read-only file system"))


def test_a_lease_is_about_the_bytes_that_were_loaded(store: NodeStore) -> None:
    """Who has loaded the older table holds that, whatever the file is by now."""
    held = hold_table_at(store.table_path, table_bytes(1))
    assert held is not None
    assert held.generation == 1
    held.release()


def test_a_file_that_is_replaced_while_it_is_held_is_held_again(
    store: NodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without bytes, what counts is what the file holds once the lease is there."""
    hold_table = NodeStore.hold_table

    def slow(self: NodeStore, digest: str) -> leases.Lease | None:
        if digest == sha256(table_bytes(2)):
            NodeStore(store.directory).publish(make_artifact(3))
        return hold_table(self, digest)

    monkeypatch.setattr(NodeStore, "hold_table", slow)
    held = hold_table_at(store.table_path)
    assert held is not None
    assert held.generation == 3
    held.release()
