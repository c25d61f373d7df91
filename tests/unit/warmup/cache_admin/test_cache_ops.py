"""The cache commands: listing, verifying, explaining, comparing, moving and pruning real stores."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.warmup.artifact.artifact import Artifact, Content, sha256, table_content
from ray_warmup.warmup.artifact.fingerprint import METADATA_FIELDS
from ray_warmup.warmup.artifact.rows import TimingRow
from ray_warmup.warmup.artifact.table import Entry, TunedTable, parse_table
from ray_warmup.warmup.artifact.timings import timings_content
from ray_warmup.warmup.cache_admin.diff import diff_generations
from ray_warmup.warmup.cache_admin.exporting import export_store
from ray_warmup.warmup.cache_admin.store_changes import (
    PruneRules,
    apply_prune,
    import_archive,
    plan_prune,
    rollback,
)
from ray_warmup.warmup.cache_admin.store_inspection import explain, find_stores, list_stores
from ray_warmup.warmup.cache_admin.store_verification import verify_store
from ray_warmup.warmup.caches.artifact_install import provider_directory
from ray_warmup.warmup.errors import ArtifactError, StoreError
from ray_warmup.warmup.store import leases
from ray_warmup.warmup.store.generations import move_to_trash
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.tasks import Choice, Measurement, TaskResult
from tests.artifacts import make_artifact, table_bytes
from tests.cache_requests import perform

DAY = 86_400.0
NOW = 1_800_000_000.0
METADATA = dict.fromkeys(METADATA_FIELDS, "1")


def file_key(runner: str, m: int) -> str:
    """A file key as FlashInfer writes it."""
    return f"('gemm', {runner!r}, (({m}, 64), (64, 32)), ())"


def timed(m: int, tactic: int) -> TaskResult:
    """A task that was timed with as many microseconds as its tactic says."""
    keys, measured = {"Direct": file_key("Direct", m)}, Measurement("Direct", tactic, tactic / 1e6, 0.0, 3)
    return TaskResult(
        f"gemm@{m}", "gemm", m, "tuned", Choice("Direct", tactic), "Direct", keys, measurements=(measured,)
    )


def tuned(tactics: dict[int, int], key: dict[str, str], made_at: float = NOW, module: bytes = b"module") -> Artifact:
    """An artifact with a valid table: one entry for each M, its tactic, and a time of tactic microseconds."""
    entries = {file_key("Direct", m): Entry("Direct", tactic) for m, tactic in tactics.items()}
    table = TunedTable(METADATA, entries, {}).to_bytes()
    rows = [TimingRow(timed(m, tactic)) for m, tactic in tactics.items()]
    sidecar = timings_content(sha256(table), rows)
    contents = [table_content(table), sidecar, Content("flashinfer_module", "g/g.so", module)]
    fingerprint = {"flashinfer_version": "0.7.2.post1", "arch": "90a"}
    return make_artifact(contents=contents, key=key, fingerprint=fingerprint, created_at=made_at)


def put(root: Path, artifact: Artifact, version: str = "0.7.2.post1") -> NodeStore:
    """Publish below a cache root, as a rank would."""
    path = root / "flashinfer_autotune_cache" / version / "90a" / artifact.manifest.key.sha256
    store = NodeStore(path)
    store.publish(artifact)
    return store


@pytest.fixture
def store(tmp_path: Path) -> NodeStore:
    """A store with two generations: a winner changed, a task came, a task went, a module changed."""
    put(tmp_path, tuned({1: 5, 8: 7, 16: 9}, {"gpu": "H200"}))
    return put(tmp_path, tuned({1: 5, 8: 6, 32: 4}, {"gpu": "H200"}, module=b"other"))


def test_stores_are_found_below_root_and_override(tmp_path: Path, store: NodeStore) -> None:
    """Only directories named by a key count; an override directory holds keys directly."""
    (tmp_path / "flashinfer_autotune_cache/0.7.2.post1/90a/not-a-key").mkdir()
    override = tmp_path / "o" / ("c" * 64)
    override.mkdir(parents=True)

    assert find_stores(tmp_path) == (store.directory,)
    assert find_stores(tmp_path, tmp_path / "o") == (override,)
    assert find_stores(tmp_path / "none") == ()


def test_list_shows_what_is_current(tmp_path: Path, store: NodeStore) -> None:
    """One row says version, architecture, generations, entries, sizes, holders; a broken store says why."""
    lease = store.hold(2)
    (row,) = list_stores(find_stores(tmp_path))
    lease.release()

    assert (row.flashinfer_version, row.arch, row.current, row.generations) == ("0.7.2.post1", "90a", 2, (1, 2))
    assert (row.entries, row.guard, row.is_held, row.problem) == (3, "guarded", True, "")
    assert dict(row.kinds).keys() == {"autotune_configs", "timings", "flashinfer_module"}
    assert row.disk_bytes > 1000
    (store.directory / "current").write_text("{")
    (broken,) = list_stores(find_stores(tmp_path))
    assert (broken.current, "not valid JSON" in broken.problem, broken.is_held) == (None, True, False)


def test_verify_finds_every_kind_of_damage(tmp_path: Path, store: NodeStore) -> None:
    """A whole store has no problem; a flipped blob, table, manifest, installation or a wrong place is named."""
    whole = verify_store(store.directory)
    assert (whole.problems, whole.generations, whole.files) == ((), 2, 7)

    provider = provider_directory(store.directory, store.current()[1].module_set)
    installed = provider / "flashinfer_jit_cache/modules/g/g.so"
    installed.parent.mkdir(parents=True)
    installed.write_bytes(b"other")
    assert verify_store(store.directory).problems == ()
    victims = [
        installed,
        store.table_path,
        store.generations.blob_path(sha256(b"module")),
        store.generations.manifest_path(1),
        store.directory / "current",
    ]
    for victim in victims:
        kept = victim.read_bytes()
        victim.write_bytes(b"x" + kept[1:])
        assert len(verify_store(store.directory).problems) >= 1, victim
        victim.write_bytes(kept)
    assert verify_store(store.directory).problems == ()
    moved = store.directory.with_name("d" * 64)
    shutil.copytree(store.directory, moved)
    assert "belongs to key" in verify_store(moved).problems[0]
    assert "nothing is committed" in verify_store(tmp_path).problems[0]


def test_verify_looks_for_what_an_installation_lacks(store: NodeStore) -> None:
    """A set that was installed to its end and lost a module is named; one that was never installed is not."""
    provider = provider_directory(store.directory, store.current()[1].module_set)
    assert verify_store(store.directory).problems == ()
    (provider / "flashinfer_jit_cache").mkdir(parents=True)
    (provider / "flashinfer_jit_cache" / "__init__.py").write_text("")
    (problem, *_) = verify_store(store.directory).problems
    assert problem.startswith(f"{provider / 'flashinfer_jit_cache/modules/g/g.so'} is missing")


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"version": 7}, "has version 7"), ({"tasks": None}, "lists no tasks"), ({"table_sha256": "0"}, "another table")],
)
def test_verify_checks_the_schema_of_the_timings(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    """A sidecar whose digest is right and whose form is not is a problem by name."""
    table = table_bytes(1)
    sidecar = json.loads(timings_content(sha256(table), []).data) | changed
    content = Content("timings", "timings.json", json.dumps(sidecar).encode())
    damaged = NodeStore(tmp_path / ("ab" * 32))
    damaged.publish(make_artifact(contents=[table_content(table), content]))
    assert any(said in problem for problem in verify_store(damaged.directory).problems)


def test_verify_opens_the_kernels_of_a_tune(tmp_path: Path) -> None:
    """A blob whose digest is right and which is no archive of kernels is a problem by name."""
    damaged = NodeStore(tmp_path / ("ab" * 32))
    damaged.publish(make_artifact(contents=[Content("tuning_kernels", "compute_cache.rwa", b"kernels")]))
    assert any(
        "not a file of `ray-warmup cache export`" in problem for problem in verify_store(damaged.directory).problems
    )


def test_explain_names_the_part_that_differs(tmp_path: Path, store: NodeStore) -> None:
    """A hit is a hit; a miss says that nothing is there and which stored keys are nearest."""
    put(tmp_path, tuned({1: 1}, {"gpu": "B200", "driver": "2"}))
    stores = find_stores(tmp_path)
    hit = explain(store.directory, {"gpu": "H200"}, stores)
    miss = explain(tmp_path / "elsewhere", {"gpu": "H100"}, stores)

    assert (hit.hit, hit.reason) == (True, "")
    assert (miss.hit, [difference for _, difference in miss.others]) == (
        False,
        ["gpu: stored 'H200', wanted 'H100'", "gpu: stored 'B200', wanted 'H100'; driver: stored '2', wanted None"],
    )


def test_diff_shows_winners_times_and_modules(store: NodeStore) -> None:
    """Changed winners with both recorded times, tasks that came and went, and changed compiled files."""
    found = diff_generations(store.directory, 1, 2)
    (change,) = found.changed

    assert (change.old, change.new, change.old_s, change.new_s) == ("Direct 7", "Direct 6", 7e-6, 6e-6)
    assert ("8, 64" in change.task, len(found.added), len(found.removed), found.same) == (True, 1, 1, 1)
    assert found.blobs == ("~flashinfer_module/g/g.so",)
    with pytest.raises(StoreError):
        diff_generations(store.directory, 1, 9)


def test_export_and_import_move_an_artifact(tmp_path: Path, store: NodeStore) -> None:
    """A store's artifact arrives below another root as a hit; a damaged file changes nothing there."""
    file, there = tmp_path / "one.rwa", tmp_path / "there"
    size = export_store(store.directory, file)
    published = import_archive(file, there)

    assert size == file.stat().st_size
    assert find_stores(there) == (published.path.parent,)
    assert NodeStore(published.path.parent).lookup({"gpu": "H200"}).hit
    assert published.path.relative_to(there) == store.table_path.relative_to(tmp_path)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError):
        import_archive(file, tmp_path / "nowhere")
    with pytest.raises(StoreError, match="does not exist"):
        import_archive(tmp_path / "none", there)
    assert not (tmp_path / "nowhere").exists()


def test_an_earlier_generation_can_be_exported(tmp_path: Path, store: NodeStore) -> None:
    """Not only the current artifact can leave."""
    export_store(store.directory, tmp_path / "old.rwa", generation=1)
    published = import_archive(tmp_path / "old.rwa", tmp_path / "there")

    assert file_key("Direct", 16) in parse_table(published.path.read_bytes()).entries


def test_rollback_changes_table_and_pointer(store: NodeStore) -> None:
    """The generation before the current one becomes current; the table file follows; publishing goes on after it."""
    done = rollback(store.directory)

    assert (done.old, done.new) == (2, 1)
    assert file_key("Direct", 16) in parse_table(store.table_path.read_bytes()).entries
    assert store.lookup({"gpu": "H200"}).generation == 1
    with pytest.raises(StoreError, match="cannot go back to"):
        rollback(store.directory)
    assert rollback(store.directory, 2).new == 2
    assert store.publish(tuned({1: 3}, {"gpu": "H200"})).generation == 3


def test_rollback_to_a_damaged_generation_is_refused(store: NodeStore) -> None:
    """What is not whole does not become current."""
    store.generations.blob_path(sha256(b"module")).write_bytes(b"damaged")

    with pytest.raises(ArtifactError):
        rollback(store.directory)
    assert store.lookup({"gpu": "H200"}).generation == 2


def test_prune_rules_name_what_they_mean(tmp_path: Path) -> None:
    """Each rule names its own things with a reason; the current generation is never named alone."""
    old = put(tmp_path, tuned({1: 1}, {"k": "old"}, made_at=NOW - 40 * DAY))
    other = put(tmp_path, tuned({1: 1}, {"k": "other"}), version="0.7.1")
    many = put(tmp_path, tuned({1: 1}, {"k": "many"}))
    for number in (2, 3, 4):
        put(tmp_path, tuned({1: number}, {"k": "many"}, made_at=NOW + number))
    stores = find_stores(tmp_path)

    def planned(**rules: object) -> list[tuple[str, int | None]]:
        chosen = PruneRules(**{"keep_generations": None, **rules})  # type: ignore[arg-type]
        return [(removal.path, removal.generation) for removal in plan_prune(stores, chosen, NOW)]

    assert planned() == []
    assert planned(keep_generations=2) == [(str(many.directory), 1), (str(many.directory), 2)]
    assert planned(older_than_days=30) == [(str(old.directory), None)]
    assert planned(installed_version="0.7.2.post1") == [(str(other.directory), None)]
    assert planned(max_bytes=0) == [(str(path), None) for path in (many.directory, other.directory, old.directory)]
    rollback(many.directory, 1)
    assert planned(keep_generations=2) == [(str(many.directory), 2)]


def test_prune_removes_the_plan_and_its_blobs(tmp_path: Path, store: NodeStore) -> None:
    """The plan is carried out, blobs nobody names go with it, what is held stays and is reported."""
    rules = PruneRules(keep_generations=1)
    stores = find_stores(tmp_path)
    plan = plan_prune(stores, rules, NOW)
    lease = store.hold(1)
    kept = apply_prune(plan, stores, lambda: NOW)
    assert (kept.removed, len(kept.kept), store.generations.numbers()) == ((), 1, [1, 2])
    lease.release()
    done = apply_prune(plan, stores, lambda: NOW)

    assert (store.generations.numbers(), done.kept, done.freed_bytes > 0) == ([2], (), True)
    assert not store.generations.blob_path(sha256(b"module")).exists()
    assert verify_store(store.directory).problems == ()


def test_a_prune_finishes_what_a_killed_one_hid(tmp_path: Path, store: NodeStore) -> None:
    """A whole store that a dead pruner left out of sight goes an hour later, or comes back if it is held; what another
    prune took away meanwhile is not called in use."""
    other = put(tmp_path, tuned({1: 1}, {"gpu": "other"}))
    plan = plan_prune([other.directory], PruneRules(older_than_days=0.0), NOW + 1)
    trash = move_to_trash(other.directory)
    assert trash is not None
    assert apply_prune(plan, [store.directory], time.time).kept == ()
    assert trash.exists()
    os.utime(trash, (1, 1))
    lease = leases.acquire(trash / "leases", 1)
    apply_prune((), [store.directory], time.time)
    assert (trash.exists(), find_stores(tmp_path)) == (False, tuple(sorted((store.directory, other.directory))))
    replace(lease, path=other.directory / "leases" / (lease.path or trash).name).release()
    trash = move_to_trash(other.directory)
    assert trash is not None
    os.utime(trash, (1, 1))
    assert str(trash) in apply_prune((), [store.directory], time.time).removed
    assert find_stores(tmp_path) == (store.directory,)


def test_commands_answer_in_json(tmp_path: Path, store: NodeStore) -> None:
    """Every command gives plain values; failures are answers with advice; prune is a dry run without `yes`."""
    here = {"root": str(tmp_path), "key": store.directory.name[:8]}
    assert perform("ls", here)["result"][0]["entries"] == 3
    whole = {"command": "verify", "ok": True, "result": None, "where": str(tmp_path)}
    assert perform("verify", here) | {"result": None} == whole
    assert perform("diff", here)["result"]["old"] == 1
    assert perform("prune", here | {"keep": 1})["result"]["done"] is None
    assert store.generations.numbers() == [1, 2]
    assert perform("rollback", here)["result"]["new"] == 1
    assert perform("export", here | {"file": str(tmp_path / "f")})["ok"]
    assert perform("import", {"root": str(tmp_path / "there"), "file": str(tmp_path / "f")})["ok"]
    assert perform("rollback", here | {"generation": 2})["result"]["old"] == 1
    assert perform("prune", here | {"keep": 1, "yes": True})["result"]["done"]["removed"]
    assert "no store" in perform("rollback", {"root": str(tmp_path), "key": "ffff"})["error"]
    put(tmp_path, tuned({1: 1}, {"gpu": "other"}))
    assert "2 stores" in perform("diff", {"root": str(tmp_path)})["error"]


def test_a_rollback_is_refused_while_a_run_is_live(tmp_path: Path, store: NodeStore) -> None:
    """A run (which holds its store) would publish over it: neither planned nor done, unless it is forced."""
    here = {"root": str(tmp_path), "key": store.directory.name[:8]}
    lease = store.hold(leases.PUBLISHING)
    for arguments in ({}, {"plan": True}):
        assert "a run of this key is live" in perform("rollback", here | arguments)["error"]
    assert store.lookup({"gpu": "H200"}).generation == 2
    assert perform("rollback", here | {"force": True})["ok"]
    lease.release()
    assert perform("rollback", here | {"generation": 2})["ok"]
    (store.directory / "leases" / "x.json").write_text("{")
    assert "a run may be live" in perform("rollback", here)["error"]


def test_rows_have_the_digest_of_the_table_that_is_served(tmp_path: Path, store: NodeStore) -> None:
    """`ls`, `verify` and `explain` tell it, so that nodes can be compared."""
    digest = sha256(store.table_path.read_bytes())
    (listed,) = perform("ls", {"root": str(tmp_path)})["result"]
    (verified,) = perform("verify", {"root": str(tmp_path)})["result"]
    explained = explain(store.directory, {"gpu": "H200"}, ())

    assert [listed["table"], verified["table"], explained.table] == [digest] * 3
    assert {listed["key_sha256"], verified["key_sha256"], explained.key_sha256} == {store.directory.name}


def test_an_export_that_cannot_be_written_advises_another_file(tmp_path: Path, store: NodeStore) -> None:
    """The cache's root has nothing to do with it; links that the user names are followed."""
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    for target in ("file/x", "loop", "loop/x"):
        answer = perform("export", {"root": str(tmp_path), "file": str(tmp_path / target)})
        assert "name another FILE" in answer["error"]
        assert "cache.root" not in answer["error"]
    assert perform("export", {"root": str(tmp_path), "file": str(tmp_path / "link" / "x")})["ok"]
    assert (tmp_path / "x").stat().st_size > 1000


def test_import_names_the_rows_that_it_refuses(tmp_path: Path) -> None:
    """The artifact is taken, a broken line of its timings is a note; a link to the file is as good as the file."""
    whole = tuned({1: 1, 2: 2}, {"gpu": "H200"})
    (sidecar,) = whole.contents("timings")
    document = json.loads(bytes(sidecar.data))
    document["tasks"][0]["result"]["measurements"][0]["median_s"] = None
    table = whole.table
    assert table is not None
    contents = [table_content(table), Content("timings", sidecar.path, json.dumps(document).encode())]
    about = {"key": dict(whole.manifest.key.parts), "key_sha256": whole.manifest.key.sha256}
    artifact = make_artifact(contents=contents, fingerprint=dict(whole.manifest.fingerprint), **about)
    store = put(tmp_path / "a", artifact)
    mount = tmp_path / "mnt" / "..2026"
    mount.mkdir(parents=True)
    export_store(store.directory, mount / "artifact")
    (tmp_path / "mnt" / "..data").symlink_to("..2026")
    (tmp_path / "mnt" / "artifact").symlink_to("..data/artifact")
    arguments = {"root": str(tmp_path / "b"), "file": str(tmp_path / "mnt" / "artifact")}
    answer = perform("import", arguments)
    assert answer["ok"], answer
    assert "timings.json: 1 of 2 rows is refused and left out: " in answer["result"]["notes"][0]
    assert "median_s: None" in answer["result"]["notes"][0]


def test_a_file_that_cannot_be_imported_is_named_without_advice_on_caches(tmp_path: Path) -> None:
    """What is wrong is the file's, so no setting of the cache is spoken of."""
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("loop", "Too many levels"), ("pipe", "not a regular file"), ("absent", "does not exist")):
        answer = perform("import", {"root": str(tmp_path / "b"), "file": str(tmp_path / name)})
        assert not answer["ok"]
        assert f"{tmp_path / name}" in answer["error"]
        assert words in answer["error"]
        assert "cache.root" not in answer["error"]
