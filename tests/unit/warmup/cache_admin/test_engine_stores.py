"""The cache commands on artifacts of a real engine, and on what was placed from them in its own caches."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.artifact.manifest import KeyEntry, key_digest
from ray_warmup.warmup.cache_admin.command import perform
from ray_warmup.warmup.cache_admin.placed_entries import CHANGED
from ray_warmup.warmup.cache_admin.requests import CacheRequest
from ray_warmup.warmup.caches import engine_kinds
from ray_warmup.warmup.caches.placed import register
from ray_warmup.warmup.caches.placing import placing
from ray_warmup.warmup.engines.artifacts import engine_store, request_index
from ray_warmup.warmup.errors import UnsafeArchiveError, WarmupError
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.table_lease import Holding
from tests.engines import recorded


def ask(command: str, root: Path, **arguments: Any) -> Any:
    """The result of a command that went well."""
    answer = perform(command, CacheRequest(root=str(root), **arguments))
    assert answer.ok, answer
    return answer.result


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A node's cache root."""
    return tmp_path / "root"


def placed(root: Path, store: NodeStore, cache: Path) -> Path:
    """An entry of ours in an engine's cache, beside one of the engine's own."""
    own = cache / "kernel.own"
    own.mkdir(parents=True, exist_ok=True)
    (own / "kernel.cubin").write_text("the engine's")
    with placing(register(root), store.directory) as round_:
        round_.tree(engine_kinds.DEEP_GEMM.layout, [Content("deep_gemm", "kernel.a/kernel.cubin", b"cubin")], cache)
    return cache / "kernel.a"


def test_an_engines_store_is_listed_and_checked(root: Path, tmp_path: Path) -> None:
    """Engine and version, its kinds, and how many entries lie in caches; a changed one is named by `verify`."""
    store = recorded.stored(root, size="4")
    entry = placed(root, store, tmp_path / "cache")
    (row,) = ask("ls", root)
    ask("verify", root)
    (entry / "kernel.cubin").write_text("changed")
    damaged = perform("verify", CacheRequest(root=str(root)))

    assert (row.engine, row.placed, row.current, row.problem) == ("vllm 0.33.0", 1, 1, "")
    assert {kind for kind, _ in row.kinds} >= {"torch_compile", "deep_gemm", "modelinfos"}
    assert not damaged.ok
    assert isinstance(damaged.result, tuple)
    assert damaged.result[0].problems == (  # type: ignore[union-attr]
        f"{entry} was changed after it was placed; the next start of an engine replaces it",
    )


def test_an_artifact_travels_as_a_file(root: Path, tmp_path: Path) -> None:
    """Imported on another node it is the same, and the node knows the request that it answers."""
    store = recorded.stored(root, size="4")
    file, other = tmp_path / "artifact", tmp_path / "other"
    ask("export", root, file=str(file))
    done = ask("import", other, file=str(file))
    (row,) = ask("ls", other)

    assert row.key_sha256 == store.directory.name
    assert done.notes == ("an engine that starts on this node places it by itself",)
    found = request_index.find(other, recorded.REQUEST)
    assert found is not None
    assert found.key_sha256 == row.key_sha256
    assert NodeStore(Path(row.path)).current()[1].digest == store.current()[1].digest


KINDS = sorted({blob.kind for blob in recorded.artifact().manifest.blobs})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["tampered", "half", "gone"])
def test_a_damaged_entry_of_every_kind_is_refused_by_name(root: Path, kind: str, damage: str) -> None:
    """`verify` names kind and path, an import of it is refused, and a start that needs the kind loads nothing."""
    store = recorded.stored(root, size="4")
    entry = next(blob for blob in store.current()[1].blobs if blob.kind == kind)
    file = store.directory / "blobs" / entry.sha256
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) // 2] if damage == "half" else bytes([data[0] ^ 1]) + data[1:])

    damaged = perform("verify", CacheRequest(root=str(root)))
    assert not damaged.ok
    assert isinstance(damaged.result, tuple)
    problems = damaged.result[0].problems  # type: ignore[union-attr]
    assert any(f"{kind}/{entry.path}" in problem for problem in problems), problems
    assert not perform("export", CacheRequest(root=str(root), file=str(root / "out"))).ok
    with pytest.raises((WarmupError, FileNotFoundError)):
        store.read_artifact([entry.kind])


def test_an_artifact_that_names_another_place_is_refused(root: Path) -> None:
    """A foreign engine or version that is no plain name never becomes a path."""
    made = recorded.artifact(size="4")
    for name in ("engine", "engine_version"):
        rows = tuple((part, "../../x" if part == name else value) for part, value in made.manifest.key.parts)
        foreign = replace(made.manifest, key=KeyEntry(key_digest(rows), rows))
        with pytest.raises(UnsafeArchiveError, match=f"the artifact's {name} '../../x' is not one directory's name"):
            engine_store.directory_of(root, foreign)


def test_an_earlier_recording_is_made_current_again(root: Path) -> None:
    """Generations of an engine's artifact count like those of tables."""
    store = recorded.stored(root, size="4")
    store.publish(recorded.artifact(created_at=2.0, size="4"))
    assert ask("rollback", root).new == 1
    assert store.current()[1].created_at == 1.0
    assert ask("prune", root, keep=1).plan == ()
    assert ask("rollback", root, generation=2).new == 2
    assert [row.generation for row in ask("prune", root, keep=1).plan] == [1]


def test_unused_entries_are_pruned_and_the_engines_own_stay(root: Path, tmp_path: Path) -> None:
    """Held by a live process: everything stays. Then ours goes, and nothing else; changed ones stay."""
    store = recorded.stored(root, size="4")
    entry = placed(root, store, tmp_path / "cache")
    holding = Holding(store.hold(1))
    while_held = ask("prune", root, keep=3, yes=True)
    holding.release()
    planned = ask("prune", root, keep=3)
    done = ask("prune", root, keep=3, yes=True)

    assert while_held.plan == ()
    assert [(row.what, row.path) for row in planned.plan] == [("placed", str(entry))]
    assert done.done is not None
    assert done.done.removed == (str(entry),)
    assert not entry.exists()
    assert (tmp_path / "cache" / "kernel.own" / "kernel.cubin").read_text() == "the engine's"
    assert list(register(root).directories()) == []

    again = placed(root, store, tmp_path / "cache")
    (again / "kernel.cubin").write_text("changed")
    assert ask("prune", root, keep=3, yes=True).plan == ()
    assert again.exists()


def test_a_changed_entry_goes_once_no_store_would_replace_it(root: Path, tmp_path: Path) -> None:
    """While its store is there the next start replaces it; afterwards an engine would load it for ever."""
    store = recorded.stored(root, size="4")
    entry = placed(root, store, tmp_path / "cache")
    (entry / "kernel.cubin").write_text("changed")
    while_there = ask("prune", root, keep=3, yes=True)
    shutil.rmtree(store.directory)
    planned = ask("prune", root, keep=3)
    done = ask("prune", root, keep=3, yes=True)

    assert while_there.plan == ()
    assert [(row.path, row.reason) for row in planned.plan] == [(str(entry), CHANGED)]
    assert done.done is not None
    assert done.done.removed == (str(entry),)
    assert not entry.exists()
    assert (tmp_path / "cache" / "kernel.own" / "kernel.cubin").read_text() == "the engine's"
    assert list(register(root).directories()) == []


def test_whole_engine_stores_go_by_the_rules_unless_held(root: Path) -> None:
    """Old ones, too large ones, other versions; one that a live process serves from stays and is named."""
    used, unused = recorded.stored(root, size="4"), recorded.stored(root, size="8")
    holding = Holding(used.hold(1))
    done = ask("prune", root, keep=3, older_than_days=1.0, yes=True).done
    holding.release()

    assert [Path(path).name for path in done.removed] == [unused.directory.name]
    assert done.kept == (str(used.directory),)


def test_another_version_is_told_by_the_installed_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's version decides about its artifacts, FlashInfer's about tables."""
    recorded.stored(root, size="4")
    monkeypatch.setattr("ray_warmup.warmup.cache_admin.command._engines_here", lambda: {"vllm": "0.34.0"})
    (row,) = ask("prune", root, keep=3, other_versions=True).plan
    assert (row.what, row.reason) == ("store", "made by vllm 0.33.0, 0.34.0 is installed")
    monkeypatch.setattr("ray_warmup.warmup.cache_admin.command._engines_here", lambda: {"sglang": "0.5.23"})
    assert ask("prune", root, keep=3, other_versions=True).plan == ()
