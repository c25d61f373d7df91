"""`ray_warmup.apply`: only what a store names is served, without banned tactics, and it is said what that covers."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import ray_warmup
from ray_warmup.configs.modes import Modes
from ray_warmup.warmup.artifact.artifact import sha256, table_content
from ray_warmup.warmup.artifact.table import Entry, TunedTable, parse_table
from ray_warmup.warmup.device.autotuner_seams import metadata
from ray_warmup.warmup.device.loading import held_table
from ray_warmup.warmup.errors import LoadError, StoreError
from ray_warmup.warmup.store import leases, table_at
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.pruning import held
from tests.artifacts import ROOT, make_artifact

KEYS = [str(("bf16_gemm", "Runner", ((m, 64), (64, 64)), ())) for m in (1, 2, 4)]
MOE = str(("fused_moe", "MoE", ((8, 64),), ()))


def table_of(tactic: int) -> bytes:
    """Three GEMM entries and one of another op, valid in this process."""
    entries = {key: Entry("Runner", tactic) for key in KEYS} | {MOE: Entry("MoE", 3)}
    return TunedTable(metadata(), entries, {}).to_bytes()


@pytest.fixture
def store(tmp_path: Path) -> NodeStore:
    """A store with one table."""
    found = NodeStore(tmp_path / ("ab" * 32))
    found.publish(make_artifact(contents=[table_content(table_of(7))]))
    return found


def served() -> set[int]:
    """The tactics that this process' AutoTuner holds."""
    return {entry.tactic for entry in held_table().entries.values()}


def test_it_says_what_is_covered(store: NodeStore) -> None:
    """Entries by op; no number of hits where nothing was looked up."""
    applied = ray_warmup.apply(store.table_path)
    assert (applied.entries, applied.ops, applied.hits) == (4, (("bf16_gemm", 3), ("fused_moe", 1)), None)
    assert (applied.digest, applied.notes, applied.is_held) == (parse_table(table_of(7)).digest, (), True)
    assert ray_warmup.apply(store.table_path, []).hits == 0


@pytest.mark.parametrize("change", ["added", "layout", "cut", "empty", "no json"])
def test_a_table_that_an_engine_saved_into_or_damaged_is_put_back(store: NodeStore, change: str) -> None:
    """Entries beside the published ones, another layout, half a file: never served, put back."""
    data = store.table_path.read_bytes()
    document = json.loads(data)
    document[str(("other_op", "Runner", ((8, 64),), ()))] = ["Runner", 9]
    bad = {
        "added": json.dumps(document).encode(),
        "layout": data.replace(b'"Runner"', b'"Runner" ', 1),
        "cut": data[:-20],
        "empty": b"",
        "no json": b"\x00" * 100,
    }[change]
    store.table_path.write_bytes(bad)
    applied = ray_warmup.apply(store.table_path)
    assert (served(), store.table_path.read_bytes()) == ({7, 3}, data)
    assert "was not the table of its store's current generation" in applied.notes[0]
    assert held(store) == {1}


@pytest.mark.parametrize("change", ["tactic", "removed"])
def test_a_published_entry_that_was_changed_is_refused_once(store: NodeStore, change: str) -> None:
    """Nobody saves that by accident: the start fails by the entry's name, and the next one finds the right file."""
    data = store.table_path.read_bytes()
    document = json.loads(data)
    if change == "tactic":
        document[KEYS[0]][1] = 9999
    else:
        del document[KEYS[0]]
    store.table_path.write_bytes(json.dumps(document).encode())
    with pytest.raises(LoadError, match="is not the one that was published; the right table is in place again"):
        ray_warmup.apply(store.table_path)
    assert held_table().entries == {}
    assert store.table_path.read_bytes() == data
    assert ray_warmup.apply(store.table_path).entries == 4


def test_where_it_cannot_be_put_back_the_right_bytes_are_served(
    store: NodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only store: the changed file stays, what this process serves is what the store names, and it is said."""
    data = store.table_path.read_bytes()
    document = json.loads(data)
    document[str(("other_op", "Runner", ((8, 64),), ()))] = ["Runner", 9]
    store.table_path.write_bytes(json.dumps(document).encode())

    def refuse(*_: object, **__: object) -> None:
        raise StoreError("cannot write: Read-only file system")

    monkeypatch.setattr(table_at, "publish_bytes", refuse)
    applied = ray_warmup.apply(store.table_path)
    assert (served(), applied.digest) == ({7, 3}, parse_table(data).digest)
    assert "could not be put back: cannot write: Read-only file system" in applied.notes[0]


def test_where_no_lease_can_be_left_that_is_said(
    store: NodeStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a read-only mount the table is whole in memory; the answer and a line say that nothing keeps its store."""

    def refuse(*_: object, **__: object) -> None:
        raise StoreError("cannot write: Read-only file system")

    monkeypatch.setattr(leases, "publish_bytes", refuse)
    applied = ray_warmup.apply(store.table_path)
    assert (served(), applied.hits, applied.is_held, held(store)) == ({7, 3}, None, False, set())
    assert "is served from memory and not held: no lease can be left in its store" in caplog.text


def test_a_store_that_cannot_tell_is_no_store_to_serve_from(store: NodeStore) -> None:
    """Without the pointer's word nobody knows whose table lies there."""
    ray_warmup.apply(store.table_path)
    store.generations.pointer_path.write_bytes(b"{}")
    with pytest.raises(LoadError, match="is not a generation pointer"):
        ray_warmup.apply(store.table_path)
    assert held_table().entries == {}
    assert held(store) == set()


def test_a_quarantined_tactic_is_not_served(store: NodeStore) -> None:
    """Of a run that died of it and failed afterwards; another op's ban is nobody's business."""
    store.save_quarantine([{"op": "fused_moe", "runner": "Runner", "tactic": "7"}])
    assert ray_warmup.apply(store.table_path).entries == 4
    NodeStore(store.directory).save_quarantine([{"op": "bf16_gemm", "runner": "Runner", "tactic": "7"}])
    with pytest.raises(LoadError, match="names Runner tactic 7 of bf16_gemm, which is quarantined"):
        ray_warmup.apply(store.table_path)
    assert held_table().entries == {}


def test_a_table_that_is_replaced_meanwhile_is_loaded_and_held_as_one(
    store: NodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held is the generation of what is served, also where a publisher comes between two readings."""
    real, left = table_at.read_named, [1]

    def publish_after(path: Path, limit: int) -> bytes:
        data = real(path, limit)
        if left and left.pop():
            newer = make_artifact(contents=[table_content(table_of(8))], created_at=2e9)
            NodeStore(store.directory).publish(newer)
        return data

    monkeypatch.setattr(table_at, "read_named", publish_after)
    ray_warmup.apply(store.table_path)
    assert (served(), held(store)) == ({8, 3}, {2})


def test_a_link_to_a_table_is_followed(store: NodeStore, tmp_path: Path) -> None:
    """The user named it; what it leads to is checked and held as if it had been named itself."""
    link = tmp_path / "link.json"
    link.symlink_to(store.table_path)
    store.table_path.write_bytes(b"{}")
    assert ray_warmup.apply(link).notes
    assert (served(), held(store), link.is_symlink()) == ({7, 3}, {1}, True)


def test_a_lone_table_is_taken_as_it_is(tmp_path: Path) -> None:
    """No store says what it should be; a copy of a table beside nothing else, and a memory file."""
    lone = tmp_path / "autotune_configs.json"
    lone.write_bytes(table_of(8))
    assert ray_warmup.apply(lone).notes == ()
    fd = os.memfd_create("table")
    os.write(fd, table_of(9))
    assert ray_warmup.apply(f"/proc/self/fd/{fd}").entries == 4
    os.close(fd)
    assert served() == {9, 3}
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LoadError, match="not a regular file"):
        ray_warmup.apply(tmp_path / "pipe")


def test_the_file_that_is_put_back_keeps_the_stores_mode(tmp_path: Path) -> None:
    """Engines of another user may go on reading it."""
    store = NodeStore(tmp_path / ("ab" * 32), modes=Modes(0o640, 0o750))
    store.publish(make_artifact(contents=[table_content(table_of(7))]))
    store.table_path.write_bytes(b"")
    ray_warmup.apply(store.table_path)
    assert stat.S_IMODE(store.table_path.stat().st_mode) == 0o640
    assert sha256(store.table_path.read_bytes()) == sha256(table_of(7))


def test_flashinfer_that_cannot_be_imported_is_a_load_error(tmp_path: Path) -> None:
    """Its workspace may be somebody else's; the engine gets the one error that it was promised, with the setting."""
    (tmp_path / "file").touch()
    code = (
        "import sys, ray_warmup\nfrom ray_warmup.warmup.errors import LoadError\n"
        "try: ray_warmup.apply(sys.argv[1])\nexcept LoadError as error: print('LoadError:', error)"
    )
    environ = {**os.environ, "FLASHINFER_WORKSPACE_BASE": str(tmp_path / "file")}
    command = [sys.executable, "-c", code, str(tmp_path / "t.json")]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("LoadError: FlashInfer cannot be imported here"), done.stderr
    assert "FLASHINFER_WORKSPACE_BASE" in done.stdout


LIGHT = {"numpy", "pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection", "yaml"}


def test_importing_it_needs_little() -> None:
    """An engine's environment need not have more than it has anyway: no zstd, no Ray, no command line."""
    code = (
        "import sys; before = set(sys.modules); from ray_warmup import apply\n"
        "print(*sorted({n.partition('.')[0] for n in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    found = {name for name in done.stdout.split() if not name.startswith("_")}
    assert found - LIGHT - {"cython_runtime"} == {"ray_warmup"}, found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_strangers_store_is_not_served(store: NodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's engine neither; a variable names who is believed, because an engine has no config."""
    os.chown(store.directory, 54321, -1)
    with pytest.raises(LoadError, match="belongs to user 54321, this process is user 0"):
        ray_warmup.apply(store.table_path)
    assert held_table().entries == {}
    monkeypatch.setenv("RAY_WARMUP_TRUSTED_UIDS", "54321")
    assert ray_warmup.apply(store.table_path).entries == 4
