"""An artifact's way through ranks of two nodes: packed, checked, installed, loaded; refused where it is not whole or
not theirs."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.warmup.artifact import table
from ray_warmup.warmup.disk import attempts
from ray_warmup.warmup.errors import CorruptArtifactError, LoadError, RejectedArtifactError, StoreError
from ray_warmup.warmup.messages.answers import Confirmed, Packed
from ray_warmup.warmup.messages.questions import Install
from ray_warmup.warmup.messages.values import Ancestor
from ray_warmup.warmup.rank import delivery
from ray_warmup.warmup.store import pruning
from ray_warmup.warmup.store.leases import Lease
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.pruning import held
from tests.fakes import ScriptedTuner
from tests.lone_rank import RankMaker, blobs_of, pack, tasks_of, traveled, tune
from tests.troubled_disk import TroubledDisk


def test_the_round_trip_over_two_nodes(make_rank: RankMaker) -> None:
    """Tuned on one node, installed and loaded on both: one digest, every task hits, the next lookup is a hit."""
    leader, follower = make_rank(0), make_rank(2)
    assert (leader.look_up("run-00000", retune=False).hit, held(leader.store)) == (False, {0})  # nothing is pruned
    header, blobs = tune(leader)
    assert traveled(header) == header
    for process in (leader, follower):
        installed = process.install(header, blobs)
        assert installed.degraded is None
        assert all(Path(file.path).is_file() and file.bytes > 0 for file in installed.files)
    for process in (leader, make_rank(1), follower, make_rank(3)):
        loaded = process.load(header.digest, None, {})
        assert loaded.digest == header.digest
        assert (loaded.hits, list(loaded.misses)) == (len(tasks_of(process)), [])
        assert process.replay().calls == len(tasks_of(process))
        assert (held(process.store) - {0}, process.close(), held(process.store)) == ({1}, None, set())
    last = make_rank(3)
    again = last.look_up("run-00003", retune=False)
    assert (again.table.guarded, again.table.digest) == (True, header.digest)
    rows = last.recall_table()
    assert {row.task_id for row in rows.results} == set(tasks_of(follower))
    assert len(rows.verdicts) == len(rows.results)


def test_an_unguarded_table_says_so(make_rank: RankMaker) -> None:
    """A table packed without the guard is found as unguarded."""
    process = make_rank(2)
    process.install(*tune(process, guarded=False))
    assert make_rank(3).look_up("run-00003", retune=False).table.guarded is False


def test_results_of_several_ranks_pack_to_the_same_table(make_rank: RankMaker) -> None:
    """The order in which shards arrive does not change the digest."""
    process = make_rank(1)
    results = [process.tune(task).result for task in tasks_of(process)]
    digests = {pack(process, rows, strategy="sharded").header.digest for rows in (results, results[::-1])}
    assert len(digests) == 1


def test_another_classes_artifact_is_refused(make_rank: RankMaker) -> None:
    """A rank with another environment installs and loads nothing that was made for this class."""
    header, blobs = tune(make_rank(0))
    other = make_rank(2, {"parts": {"gpu": "Another Device"}})
    for attempt in (lambda: other.install(header, blobs), lambda: other.load(header.digest, header, blobs)):
        with pytest.raises(RejectedArtifactError, match="another class"):
            attempt()
    assert not other.directory.exists()


def test_foreign_metadata_is_refused_before_it_touches_the_disk(make_rank: RankMaker) -> None:
    """A table that this FlashInfer would refuse is not installed."""
    header, blobs = tune(make_rank(0))
    other = make_rank(2, {"metadata": {"cudnn_version": "1"}})
    with pytest.raises(RejectedArtifactError, match="cudnn_version"):
        other.install(header, blobs)
    assert not other.directory.exists()


def test_damaged_blobs_are_refused(make_rank: RankMaker) -> None:
    """A flipped bit in what was pushed is found before it is installed or loaded."""
    header, blobs = tune(make_rank(0))
    digest = next(blob.sha256 for blob in header.blobs if blob.kind == "autotune_configs")
    damaged = bytearray(blobs[digest])
    damaged[len(damaged) // 2] ^= 1
    other = make_rank(2)
    for attempt in (other.install, lambda h, b: other.load(header.digest, h, b)):
        with pytest.raises(CorruptArtifactError, match="does not match its digest"):
            attempt(header, {**blobs, digest: bytes(damaged)})


@pytest.mark.parametrize("damage", [b"{", b"", b"\x00" * 64, b"[" * 100_000, None])
def test_a_table_file_that_was_damaged_is_put_back(make_rank: RankMaker, damage: bytes | None) -> None:
    """After the push, a table file that is not the one that was installed is restored, and this run's is loaded."""
    process = make_rank(0)
    header, blobs = tune(process)
    process.install(header, blobs)
    table = process.directory / "autotune_configs.json"
    whole = table.read_bytes()
    if damage is None:
        table.unlink()
    else:
        table.write_bytes(damage)

    assert process.load(header.digest, None, {}).digest == header.digest
    assert table.read_bytes() == whole


def test_a_store_without_this_run_s_table_is_a_named_error(make_rank: RankMaker) -> None:
    """What no generation has is not loaded, and the error names the file; a store that is gone says so, too."""
    process, other = make_rank(0), make_rank(1, {"salt": "another"})
    header, _ = tune(process)
    other.install(*tune(other))
    with pytest.raises(LoadError, match=r"autotune_configs\.json is not the table of this run, nor does any"):
        process.load(header.digest, None, {})
    shutil.rmtree(process.directory)
    with pytest.raises(LoadError, match="cannot be read"):
        process.load(header.digest, None, {})


def test_two_runs_on_one_directory_each_load_their_own_table(make_rank: RankMaker) -> None:
    """Of two cold clusters that share a directory the one that installs first is not failed by the other."""
    first, second = make_rank(0), make_rank(1, {"salt": "another"})
    pushed = []
    for number, process in enumerate((first, second)):
        process.look_up(f"run-{number}0000", retune=False)
        pushed.append((process, *tune(process)))
    for process, header, blobs in pushed:
        assert process.install(header, blobs).degraded is None
    pruning.prune_generations(first.store, [1, 2])
    for generation, (process, header, _) in enumerate(pushed, start=1):
        assert process.load(header.digest, None, {}).digest == header.digest
        assert generation in held(process.store)
    assert first.store.generations.numbers() == [1, 2]


def test_what_is_loaded_is_what_is_held(make_rank: RankMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is replaced between the lease and the load changes neither."""
    process, other = make_rank(0), make_rank(1, {"salt": "another"})
    header, blobs = tune(process)
    process.install(header, blobs)
    later = tune(other)
    hold_table = NodeStore.hold_table

    def replaced(self: NodeStore, digest: str) -> Lease | None:
        use = hold_table(self, digest)
        monkeypatch.setattr(NodeStore, "hold_table", hold_table)
        other.install(*later)
        return use

    monkeypatch.setattr(NodeStore, "hold_table", replaced)
    assert process.load(header.digest, None, {}).digest == header.digest
    assert process.parts.delivery._held["table"].generation == 1


def test_a_process_that_replaces_a_writer_holds_its_store(make_rank: RankMaker) -> None:
    """Modules and blobs that no generation names yet stay from the successor's first step on."""
    first = make_rank(0)
    first.install(*tune(first))
    modules = first.directory / "installed" / ("ab" * 16)
    modules.mkdir(parents=True)
    first.close()
    successor = make_rank(0)
    successor.probe(modules="ab" * 32)

    assert 0 in held(successor.store)
    assert pruning.collect_garbage(successor.store) == []
    successor.close()
    assert pruning.collect_garbage(successor.store) == [modules]


def test_blobs_that_count_as_there_are_there_when_they_are_installed(make_rank: RankMaker) -> None:
    """A writer that answers which blobs it lacks holds those that it does not."""
    first, other = make_rank(0), make_rank(1, {"salt": "another"})
    header, blobs = tune(first)
    for process, pushed in ((first, (header, blobs)), (other, tune(other))):
        process.install(*pushed)
        process.close()
    writer = make_rank(0)
    pruning.prune_generations(writer.store, [1])
    missing = writer.wanted(Install(header), list(blobs))
    pruning.collect_garbage(writer.store)

    assert missing == []
    assert writer.install(header, {}).degraded is None


def test_a_lease_that_cannot_be_given_back_costs_nothing(make_rank: RankMaker, troubled_disk: TroubledDisk) -> None:
    """A disk that turns read-only after the last write fails neither the installation nor the run."""
    process = make_rank(0)
    header, blobs = tune(process)
    troubled_disk.refuse(lambda path: path.parent.name == "leases", errno.EROFS, calls=("unlink",))
    assert process.install(header, blobs).degraded is None
    assert process.load(header.digest, None, {}).digest == header.digest
    process.close()
    assert troubled_disk.refusals > 2


@pytest.mark.parametrize("call", ["unlink", "open", "rename", "replace", "mkdir", "scandir", "stat"])
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_a_disk_that_fails_during_an_installation_degrades(
    make_rank: RankMaker, troubled_disk: TroubledDisk, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """Whatever system call the disk refuses, the answer is whole or degraded, and never an exception."""
    monkeypatch.setattr(attempts, "STALE_PAUSES_S", (0.0,))
    process = make_rank(0)
    header, blobs = tune(process)
    troubled_disk.refuse(process.directory, number, calls=(call,))
    degraded = process.install(header, blobs).degraded
    troubled_disk.relent()

    assert degraded is None or str(process.directory) in degraded


def test_installing_takes_the_finished_tasks_of_every_rank_away(make_rank: RankMaker) -> None:
    """What ranks of a node left for resuming goes once it is published; what is not covered stays."""
    ranks = [make_rank(0), make_rank(1)]
    for process in ranks:
        for task in tasks_of(process):
            process.tune(task)
    NodeStore(ranks[0].directory).save_partial([{"task_id": "another"}])
    ranks[0].install(*tune(ranks[0]))

    assert [row["task_id"] for row in NodeStore(ranks[0].directory).load_partial()] == ["another"]


def test_a_store_that_cannot_be_written_degrades(make_rank: RankMaker, tmp_path: Path) -> None:
    """Below a regular file nothing can be written: lookup is a miss with warnings, install degrades, memory serves."""
    (tmp_path / "file").write_text("in the way")
    process = make_rank(2, root=tmp_path / "file" / "cache")
    answer = process.look_up("run-00002", retune=False)
    assert answer.hit is False
    assert any("cannot be told from that of other nodes" in warning for warning in answer.warnings)
    header, blobs = tune(process)
    installed = process.install(header, blobs)
    assert installed.files == ()
    assert str(tmp_path / "file") in installed.degraded
    loaded = process.load(header.digest, header, blobs)
    assert loaded.digest == header.digest
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_load_from_memory_goes_through_memfd(make_rank: RankMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """In non-persistent mode the tuner opens an anonymous file, nothing lies on disk, no descriptor is left open."""
    opened: list[str] = []
    load = ScriptedTuner.load

    def watched(self: ScriptedTuner, path: Path, expected: Any) -> Any:
        opened.append(os.readlink(path))
        return load(self, path, expected)

    monkeypatch.setattr(ScriptedTuner, "load", watched)
    process = make_rank(3, cache={"persistent": False})
    header, blobs = tune(process)
    before = os.listdir("/proc/self/fd")
    assert process.load(header.digest, header, {k: memoryview(v) for k, v in blobs.items()}).hits > 0
    assert opened == ["/memfd:autotune_configs (deleted)"]
    assert os.listdir("/proc/self/fd") == before
    assert not process.directory.exists()


def test_a_replacement_packs_what_its_predecessor_found(make_rank: RankMaker) -> None:
    """A fresh process that has not looked reads the stored artifact; with nothing stored it says so."""
    process = make_rank(2)
    header, blobs = tune(process)
    process.install(header, blobs)
    fresh = make_rank(2)
    again = fresh.pack_stored().header
    assert again.digest == header.digest
    assert blobs_of(fresh, again) == blobs
    with pytest.raises(StoreError):
        make_rank(0).pack_stored()


@pytest.mark.parametrize("renew", [False, True])
def test_a_found_table_outlives_its_store(make_rank: RankMaker, renew: bool) -> None:
    """A cache that is deleted after LOOKUP is packed from what was found there, and installed again."""
    process = make_rank(2)
    header, blobs = tune(process)
    process.install(header, blobs)
    finder = make_rank(2)
    assert finder.look_up("run-00002", retune=False).hit
    shutil.rmtree(finder.directory)
    again = finder.pack_stored(renew).header
    assert again.digest == header.digest
    assert finder.install(again, blobs_of(finder, again)).files
    assert finder.load(header.digest, None, {}).hits == len(tasks_of(finder))


def test_nothing_tuned_packs_nothing(make_rank: RankMaker) -> None:
    """Without results there is no artifact, and no blob to hand over."""
    assert pack(make_rank(1), []) == Packed(None)
    with pytest.raises(StoreError, match="is not part of the packed artifact"):
        make_rank(1).blob("0" * 64)


def test_what_is_tuned_again_comes_after_what_was_there(make_rank: RankMaker) -> None:
    """A lookup tells the lineage of what it found, and what is packed after it counts one more."""
    process = make_rank(0)
    assert process.look_up("run-00000", retune=False).lineage is None
    header, blobs = tune(process)
    process.install(header, blobs)
    known = process.look_up("run-00001", retune=True).lineage
    results = [process.tune(task).result for task in tasks_of(process)]
    again = pack(process, results, after=known).header
    process.install(again, blobs_of(process, again))

    assert known == Ancestor(header.artifact, 0)
    assert process.look_up("run-00002", retune=True).lineage == Ancestor(again.artifact, 1)


def test_what_is_confirmed_is_what_the_device_holds_then(make_rank: RankMaker) -> None:
    """Not what `load` said before: whoever empties the AutoTuner in between makes the rank no longer ready."""
    process = make_rank(0)
    header, blobs = tune(process)
    process.install(header, blobs)
    assert process.confirm().digest is None
    process.load(header.digest, None, {})
    assert process.confirm() == Confirmed(header.digest, header.digest)
    process.parts.tuner.reset()
    assert process.confirm().digest is None


def test_a_table_is_read_once_and_parsed_once_to_be_loaded(
    make_rank: RankMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its digest is compared, its environment checked, its entries loaded: all from the same bytes."""
    process = make_rank(0)
    header, blobs = tune(process)
    process.install(header, blobs)
    reads, parses = list[Path](), list[bytes]()
    read, parse = delivery.read_regular, table._read_json
    monkeypatch.setattr(delivery, "read_regular", lambda path, limit: (reads.append(path), read(path, limit))[1])
    monkeypatch.setattr(table, "_read_json", lambda data: (parses.append(data), parse(data))[1])
    table._parsed.cache_clear()
    process.load(header.digest, None, {})
    assert reads == [process.directory / "autotune_configs.json"]
    assert [parse(data) for data in parses] == [parse(reads[0].read_bytes())]
