"""Modules between two ranks without Ray: really built with gcc, handed over, taken, loaded; never an obstacle."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.configs import parse_config
from ray_warmup.warmup.artifact.artifact import Blob, Content
from ray_warmup.warmup.errors import CorruptArtifactError, RejectedArtifactError
from ray_warmup.warmup.messages.answers import Activated, Compiled, InstalledModules, Surveyed
from ray_warmup.warmup.messages.questions import Install, InstallModules, Load
from ray_warmup.warmup.messages.values import Header
from ray_warmup.warmup.rank.process import RankProcess
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.store.node_store import NodeStore
from tests.artifacts import make_artifact
from tests.fakes import ScriptedTuner
from tests.lone_rank import blobs_of, pack, traveled

Maker = Callable[..., RankProcess]
LIBRARIES = ["gemm", "norm"]
SECTIONS = {"cluster": {"world_size": 4, "gpus_per_rank": 0}, "model": {"name": "qwen3-0.6b"}}
pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler to make a shared library with")


@pytest.fixture
def make_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """`make_rank(rank, script)`: a probed rank; each node has a cache root and a FlashInfer workspace of its own."""

    def make(rank: int, script: dict[str, Any] | None = None, backend: str = "cpu", **cache: Any) -> RankProcess:
        node = tmp_path / f"node{rank // 2}"
        monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", str(node / "workspace"))
        given = {
            **SECTIONS,
            "cache": {"root": str(node / "root"), **cache},
            "autotune": {"max_num_batched_tokens": 2, "max_num_seqs": 2},
        }
        info = RankInfo(rank, 4, rank % 2, 2, rank // 2, f"node{rank // 2}", rank, (), "127.0.0.1", os.getpid())
        tuner = ScriptedTuner({"libraries": LIBRARIES, **(script or {})})
        tuner._workspace = lambda: node / "workspace"  # type: ignore[method-assign]  # one process plays two nodes
        factory = "tests.fakes:ScriptedTuner"
        process = RankProcess(info, parse_config(given), backend, lambda backend, options: tuner, factory=factory)
        process.described, process.outlined = process.probe(), process.outline()  # type: ignore[attr-defined]
        return process

    return make


def build(process: RankProcess) -> list[str]:
    """Everything that a rank's node lacks, step by step; what was built."""
    built: list[str] = []
    while True:
        step = process.compile()
        built += step.built
        if not step.missing:
            return built


def handed_over(process: RankProcess) -> tuple[Header, dict[str, Blob]]:
    """What a rank that has built hands over."""
    header = traveled(process.pack_modules()).header
    assert header is not None
    return header, blobs_of(process, header)


def packed(process: RankProcess) -> tuple[Header, dict[str, Blob]]:
    """Everything measured and packed."""
    results = [process.tune(task.task_id).result for task in process.outlined.tasks]  # type: ignore[attr-defined]
    header = pack(process, results).header
    assert header is not None
    return header, blobs_of(process, header)


def test_what_one_rank_builds_another_loads(make_rank: Maker) -> None:
    """Built on node0, taken on node1, used by both ranks there: the library that answers came over."""
    builder, taker, neighbour = make_rank(0), make_rank(2), make_rank(3)
    assert builder.survey() == Surveyed(tuple(LIBRARIES), None)
    assert builder.compile() == Compiled(("gemm",), ("norm",))
    assert builder.compile() == Compiled(("norm",), ())
    assert builder.compile() == Compiled((), ())
    header, blobs = handed_over(builder)
    assert taker.wanted(InstallModules(header), list(blobs)) == list(blobs)
    assert taker.install_modules(header, blobs) == InstalledModules(header.digest, ())
    assert list(neighbour.survey().missing) == LIBRARIES
    assert neighbour.activate_modules(header.digest) == Activated(True)
    for process in (builder, taker, neighbour):
        assert list(process.replay().built_modules) == []
    assert not list(Path(taker.parts.tuner._workspace()).glob("*.so"))  # type: ignore[attr-defined]


def test_what_an_engine_calls_is_built_and_shipped_too(make_rank: Maker) -> None:
    """On a GPU the modules of the engine warmups are among those that one node builds and that the artifact brings."""
    builder, joiner = make_rank(0, backend="cuda"), make_rank(2, backend="cuda")
    missing = list(builder.survey().missing)
    engine = missing[len(LIBRARIES) :]
    assert missing[: len(LIBRARIES)] == LIBRARIES
    assert any(name.startswith("batch_prefill_with_kv_cache") for name in engine)
    assert build(builder) == missing
    taken = joiner.install_modules(*handed_over(builder))
    assert taken.missing == ()
    header, _ = packed(builder)
    shipped = json.loads(header.manifest)["blobs"]
    assert {f"{name}/{name}.so" for name in missing} <= {blob["path"] for blob in shipped}
    assert make_rank(0).survey().missing == ()  # on the cpu backend, and there those of the workloads alone count


def test_equal_builds_hand_over_equal_bytes(make_rank: Maker) -> None:
    """The same libraries give the same digest and blobs, so they are fetched once."""
    builder = make_rank(0)
    build(builder)
    assert handed_over(builder) == handed_over(make_rank(1))


def test_a_shared_workspace_needs_nothing(make_rank: Maker) -> None:
    """A rank that finds the modules when it is asked to take them wants no blob and installs nothing."""
    builder, other = make_rank(0), make_rank(1)
    build(builder)
    header, blobs = handed_over(builder)
    assert other.wanted(InstallModules(header), list(blobs)) == []
    assert other.install_modules(header, {}) == InstalledModules(None, ())


def test_a_node_that_stores_nothing_is_not_waited_for(make_rank: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run on a node pauses for no artifact: there is none that could be on its way out."""
    rank, paused = make_rank(0), list[float]()
    monkeypatch.setattr("ray_warmup.warmup.store.node_store.time.sleep", paused.append)
    rank.survey(tunes=True)
    assert paused == []


def test_damaged_and_foreign_modules_are_refused(make_rank: Maker) -> None:
    """A flipped bit and another class's modules are named errors, and nothing of them is installed."""
    builder, taker, other = make_rank(0), make_rank(2), make_rank(2, {"parts": {"gpu": "Another Device"}})
    build(builder)
    header, blobs = handed_over(builder)
    digest = next(iter(blobs))
    flipped = bytes([bytes(blobs[digest])[0] ^ 1]) + bytes(blobs[digest])[1:]
    with pytest.raises(CorruptArtifactError):
        taker.install_modules(header, {**blobs, digest: flipped})
    with pytest.raises(RejectedArtifactError, match="another class"):
        other.install_modules(header, blobs)
    assert not list(Path(taker.described.directory).glob("installed/*"))  # type: ignore[attr-defined]


def test_a_store_that_cannot_be_written_is_a_warning(make_rank: Maker, tmp_path: Path) -> None:
    """Where the provider cannot be written its modules are still missing, and the warning says why."""
    builder = make_rank(0)
    build(builder)
    (tmp_path / "file").write_text("in the way")
    taker = make_rank(2, root=str(tmp_path / "file" / "root"))
    answer = taker.install_modules(*handed_over(builder))
    assert (answer.modules, list(answer.missing)) == (None, LIBRARIES)
    assert str(tmp_path / "file") in answer.warnings[0]


def test_a_cut_off_library_is_not_handed_over(make_rank: Maker) -> None:
    """A build that was cut off is named; the other nodes then build for themselves."""
    builder = make_rank(0)
    build(builder)
    path = builder.parts.tuner.libraries()["norm"]
    path.write_bytes(path.read_bytes()[:100])
    answer = builder.pack_modules()
    assert answer.header is None
    assert "norm" in answer.warnings[0]


def test_progress_is_told_in_words(make_rank: Maker) -> None:
    """While modules are built the heartbeat says how many of how many are done."""
    builder, said = make_rank(0), []
    tuner = builder.parts.tuner
    assert isinstance(tuner, ScriptedTuner)
    tuner._fault = lambda method, task_id="": said.append(builder.status().task_id)  # type: ignore[method-assign]
    build(builder)
    assert said[0] == "0 of 2 modules: gemm, norm"
    assert re.fullmatch(r"1 of 2 modules: gemm built after \d+\.\d s", said[1])


def test_the_artifact_brings_the_modules_to_a_node_that_joins_later(make_rank: Maker) -> None:
    """Packed beside the table, installed with it, found by the survey of a later process; no blob is sent twice."""
    builder = make_rank(0)
    build(builder)
    header, blobs = packed(builder)
    assert {row.kind for row in header.blobs} == {"autotune_configs", "timings", "flashinfer_module"}
    joiner = make_rank(2)
    assert set(joiner.wanted(Install(header), list(blobs))) == set(blobs)
    answer = joiner.install(header, blobs)
    assert (answer.degraded, answer.warnings) == (None, ())
    assert answer.counts["flashinfer_module"] == 4
    later = make_rank(3)
    assert later.wanted(Install(header), list(blobs)) == []
    found = later.survey()
    assert (found.missing, found.modules) == ((), NodeStore(Path(later.store.directory)).current()[1].module_set)
    assert later.load(header.digest, None, {}).digest == header.digest
    assert later.replay().failed == ()
    assert make_rank(2).install(header, {}).degraded is None


def test_a_node_that_shares_the_directory_fills_caches_of_its_own(
    make_rank: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels that lie in the shared store are put where this node's own Triton looks, by its survey."""
    writer = make_rank(0, root=str(tmp_path / "shared"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "local"))
    beside = make_rank(2, root=str(tmp_path / "shared"))
    group = b'{"child_paths": {"k.cubin": "k.cubin"}}'
    contents = [Content("triton_cache", "E/k.cubin", b"cubin"), Content("triton_cache", "E/__grp__k.json", group)]
    key = writer.key
    writer.store.publish(make_artifact(contents=contents, key=key.as_dict(), key_sha256=key.sha256))
    assert beside.survey().warnings == ()
    assert (tmp_path / "local/E/k.cubin").read_bytes() == b"cubin"


def test_a_load_from_memory_wants_the_table_alone(make_rank: Maker) -> None:
    """A node that keeps no files fetches no module."""
    builder = make_rank(0)
    build(builder)
    header, blobs = packed(builder)
    (wanted,) = make_rank(2).wanted(Load(header.digest, header), list(blobs))
    assert make_rank(3).load(header.digest, header, {wanted: blobs[wanted]}).hits > 0


def test_the_table_does_not_depend_on_what_was_compiled(make_rank: Maker) -> None:
    """With and without modules the table has one digest; the artifacts differ."""
    builder = make_rank(0)
    without, _ = packed(builder)
    build(builder)
    within, _ = packed(builder)
    assert without.digest == within.digest
    assert without.manifest != within.manifest


def test_a_damaged_module_does_not_hold_the_table_up(make_rank: Maker) -> None:
    """The lookup still hits, the survey builds, and what is shipped to others is the table without the modules."""
    builder = make_rank(0)
    build(builder)
    header, blobs = packed(builder)
    joiner = make_rank(2)
    joiner.install(header, blobs)
    module = next(row.sha256 for row in header.blobs if row.kind == "flashinfer_module")
    path = Path(joiner.store.directory) / "blobs" / module
    path.write_bytes(b"x" * path.stat().st_size)
    shutil.rmtree(Path(joiner.store.directory) / "installed")
    fresh = make_rank(3)
    assert fresh.look_up("run-00003", retune=False).hit is True
    assert list(fresh.survey().missing) == LIBRARIES
    again = fresh.pack_stored()
    assert (again.header.digest, {row.kind for row in again.header.blobs}) == (
        header.digest,
        {"autotune_configs", "timings"},
    )
    assert "does not match its digest" in again.warnings[0]


def test_a_found_artifact_takes_up_what_was_compiled_since(make_rank: Maker) -> None:
    """Packed without modules, found, then built for: the same table with the modules is the next generation."""
    builder = make_rank(0)
    bare, blobs = packed(builder)
    builder.install(bare, blobs)
    later = make_rank(1)
    assert later.look_up("run-00001", retune=False).hit
    build(later)
    renewed = later.pack_stored(renew=True).header
    assert renewed.digest == bare.digest
    assert "flashinfer_module" in {row.kind for row in renewed.blobs}
    sent = blobs_of(later, renewed)
    assert later.install(renewed, sent).counts["flashinfer_module"] == 4
    store = NodeStore(Path(later.store.directory))
    assert store.current()[0].generation == 2
    assert later.load(bare.digest, None, {}).digest == bare.digest


def test_without_persistence_nothing_compiled_is_kept(make_rank: Maker) -> None:
    """In memory mode the artifact is the table, and no store is looked at."""
    builder = make_rank(0, persistent=False)
    build(builder)
    header, _ = packed(builder)
    assert {row.kind for row in header.blobs} == {"autotune_configs", "timings"}
    assert not Path(builder.described.directory).exists()  # type: ignore[attr-defined]


def test_who_will_pack_starts_its_process_while_it_tunes(make_rank: Maker) -> None:
    """Once, on a machine with a GPU driver only, and it ends with the rank."""
    gpu, cpu = make_rank(0, {"parts": {"driver": "580.159.04"}}), make_rank(2)
    for rank, is_started in ((gpu, True), (cpu, False)):
        first, second = (task.task_id for task in rank.outlined.tasks[:2])  # type: ignore[attr-defined]
        rank.tune(first)
        assert rank.parts.compiled.collector._waiting is None
        rank.tune(first, packs=True)
        waiting = rank.parts.compiled.collector._waiting
        assert (waiting is not None and waiting.is_alive) == is_started
        rank.tune(second, packs=True)
        assert rank.parts.compiled.collector._waiting is waiting
        rank.close()
        assert waiting is None or not waiting.is_alive


def test_a_process_that_died_while_it_waited_is_replaced(make_rank: Maker) -> None:
    """Packing never fails for want of it: another one is started, and what that one says counts."""
    rank = make_rank(0, {"parts": {"driver": "580.159.04"}})
    results = [rank.tune(task.task_id, packs=True).result for task in rank.outlined.tasks]  # type: ignore[attr-defined]
    waiting = rank.parts.compiled.collector._waiting
    assert waiting is not None
    waiting.close()
    answer = pack(rank, results)
    assert answer.header is not None
    assert [w for w in answer.warnings if "the kernels of a replay are not shipped" in w] == list(answer.warnings)
    rank.close()


def test_without_room_for_temporary_files_kernels_are_not_shipped(
    make_rank: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank whose temporary directory cannot be written tunes and packs all the same, with a warning that says so."""
    rank = make_rank(0, {"parts": {"driver": "580.159.04"}})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    results = [rank.tune(task.task_id, packs=True).result for task in rank.outlined.tasks]  # type: ignore[attr-defined]
    answer = pack(rank, results)
    assert answer.header is not None
    assert ["TMPDIR" in warning for warning in answer.warnings] == [True]
    rank.close()
