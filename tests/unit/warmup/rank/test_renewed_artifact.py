"""What is compiled besides modules, on a hit: put back where it is gone, collected anew where settings ask for more."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import triton

from ray_warmup.configs import parse_config
from ray_warmup.warmup.caches import tuning_kernels
from ray_warmup.warmup.messages.answers import Installed
from ray_warmup.warmup.messages.questions import Install
from ray_warmup.warmup.messages.values import Header
from ray_warmup.warmup.rank import artifact_collector
from ray_warmup.warmup.rank.process import RankProcess
from ray_warmup.warmup.ranks import RankInfo
from tests.fakes import CompilingReplay, ScriptedTuner
from tests.lone_rank import pack

Maker = Callable[..., RankProcess]


@pytest.fixture
def make_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """`make_rank(rank, keeps, max_num_seqs, **engine)`: a probed rank; its node has a driver and caches of its own."""
    monkeypatch.setattr(artifact_collector, "FreshProcess", CompilingReplay)
    monkeypatch.setattr(CompilingReplay, "replays", 0)
    monkeypatch.setattr(triton.knobs.compilation, "listener", None)  # ranks that pack nothing listen to their end

    def make(rank: int, keeps: bool = True, max_num_seqs: int = 2, **engine: Any) -> RankProcess:
        node = tmp_path / f"node{rank}"
        for name, directory in (("TRITON_CACHE_DIR", "triton"), ("CUDA_CACHE_PATH", "nv")):
            monkeypatch.setenv(name, str(node / directory))
        monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", str(node / "workspace"))
        config = parse_config(
            {
                "cluster": {"world_size": 2, "gpus_per_rank": 0},
                "model": {"name": "qwen3-0.6b"},
                "autotune": {"max_num_batched_tokens": 2, "max_num_seqs": max_num_seqs},
                "cache": {"root": str(node / "root"), "tuning_kernels": keeps},
                "engine": {"enabled": True, **engine},
            }
        )
        info = RankInfo(rank, 2, 0, 1, rank, f"node{rank}", rank, (), "127.0.0.1", os.getpid())
        tuner = ScriptedTuner({"parts": {"driver": "580.1"}})
        process = RankProcess(info, config, "cpu", lambda backend, options: tuner, factory="tests.fakes:unused")
        process.described, process.outlined = process.probe(), process.outline()  # type: ignore[attr-defined]
        return process

    return make


def packed(process: RankProcess) -> Header:
    """Everything measured and packed."""
    tasks = process.outlined.tasks  # type: ignore[attr-defined]
    header = pack(process, [process.tune(task.task_id).result for task in tasks]).header
    assert header is not None
    return header


def install(process: RankProcess, header: Header, source: RankProcess) -> Installed:
    """What the coordinator does between the two, for the blobs that this node lacks."""
    digests = process.wanted(Install(header), header.digests)
    answer = process.install(header, {digest: source.blob(digest) for digest in digests})
    assert (answer.degraded, answer.warnings) == (None, ())
    return answer


def compiled_on(tmp_path: Path, node: int) -> set[str]:
    """Entries of Triton's cache and kernels of the driver's on a node."""
    found = [*tmp_path.glob(f"node{node}/triton/*/k.cubin"), *tmp_path.glob(f"node{node}/nv/0/*")]
    return {path.parent.name if path.name == "k.cubin" else path.name for path in found}


def test_a_hit_puts_back_what_a_node_has_lost(make_rank: Maker, tmp_path: Path) -> None:
    """With every module in place and the table found, the survey restores Triton's entries and the driver's kernels."""
    builder, joiner = make_rank(0), make_rank(1)
    install(joiner, packed(builder), builder)
    assert compiled_on(tmp_path, 1) == {"ENTRY1", "kernel1"}
    for cache in ("triton", "nv"):
        shutil.rmtree(tmp_path / "node1" / cache)
    later = make_rank(1)
    found = later.look_up("run-00001", retune=False)
    assert (found.hit, found.table.covers) == (True, True)
    assert later.survey().missing == ()
    assert compiled_on(tmp_path, 1) == {"ENTRY1", "kernel1"}


def test_other_engine_settings_are_collected_once_and_shipped(make_rank: Maker, tmp_path: Path) -> None:
    """A hit whose artifact was made for other settings says so; renewed, it brings both nodes what those compile."""
    builder = make_rank(0)
    install(builder, packed(builder), builder)
    later, other = make_rank(0, top_k_widths=[64]), make_rank(1, top_k_widths=[64])
    found = later.look_up("run-00002", retune=False)
    assert (found.hit, found.table.covers) == (True, False)
    again = later.pack_stored(renew=True)
    renewed = again.header
    assert (renewed.digest, again.warnings) == (found.table.digest, ())
    assert renewed.artifact != found.table.artifact
    install(later, renewed, later)
    install(other, renewed, later)
    assert compiled_on(tmp_path, 1) == {"ENTRY64", "kernel64"}
    last = make_rank(0, top_k_widths=[64])
    assert last.look_up("run-00003", retune=False).table.covers
    assert last.recall_table().results == later.recall_table().results
    assert CompilingReplay.replays == 2


@pytest.mark.parametrize("engine", [{"enabled": False}, {"verify_requests": 1, "monitor": "raise"}])
def test_settings_that_compile_nothing_more_need_no_collecting(make_rank: Maker, engine: dict[str, Any]) -> None:
    """An artifact that was made with the engine's warmups serves a run without them, or with other checks."""
    builder = make_rank(0)
    install(builder, packed(builder), builder)
    assert make_rank(0, **engine).look_up("run-00004", retune=False).table.covers is True


def test_an_artifact_of_the_table_alone_does_not_serve_an_engine(make_rank: Maker) -> None:
    """Made without the engine's warmups, it lacks what they compile."""
    builder = make_rank(0, enabled=False)
    install(builder, packed(builder), builder)
    assert make_rank(0).look_up("run-00005", retune=False).table.covers is False


def tuned_with_losers(process: RankProcess, tmp_path: Path, *names: str) -> Header:
    """Packed after the driver has compiled kernels of these names on the process' node while it tuned."""
    process.tune(process.outlined.tasks[0].task_id)  # type: ignore[attr-defined]
    directory = tmp_path / f"node{process.info.rank}/nv/9"
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_bytes(name.encode() * 10_000)
    return packed(process)


def losers_on(tmp_path: Path, node: int) -> set[str]:
    """Kernels of losing tactics in a node's driver cache."""
    return {path.name for path in tmp_path.glob(f"node{node}/nv/9/*")}


def test_what_tuning_compiled_waits_in_the_store_until_a_node_tunes(make_rank: Maker, tmp_path: Path) -> None:
    """A joining node serves without it; one that tunes again, or tunes other work, gets it before it measures."""
    builder, joiner = make_rank(0), make_rank(1)
    install(joiner, tuned_with_losers(builder, tmp_path, "loser1", "loser2"), builder)
    assert losers_on(tmp_path, 1) == set()
    joiner.survey()
    make_rank(1).survey(tunes=False)
    assert losers_on(tmp_path, 1) == set()
    make_rank(1).survey(tunes=True)
    assert losers_on(tmp_path, 1) == {"loser1", "loser2"}
    shutil.rmtree(tmp_path / "node1/nv")
    other_work = make_rank(1, max_num_seqs=1)
    assert other_work.key.sha256 != joiner.key.sha256
    other_work.survey(tunes=True)
    assert losers_on(tmp_path, 1) == {"loser1", "loser2"}


def test_a_second_tune_keeps_what_the_first_compiled(make_rank: Maker, tmp_path: Path) -> None:
    """Kernels that were there already are none of the second's, and are shipped from the first one's artifact."""
    first, joiner = make_rank(0), make_rank(1)
    install(first, tuned_with_losers(first, tmp_path, "loser1"), first)
    second = make_rank(0)
    second.survey(tunes=True)
    header = tuned_with_losers(second, tmp_path, "loser2")
    install(joiner, header, second)
    make_rank(1).survey(tunes=True)
    assert losers_on(tmp_path, 1) == {"loser1", "loser2"}
    install(second, header, second)
    unchanged = packed(make_rank(0))
    kernels = [[row.sha256 for row in h.blobs if row.kind == "tuning_kernels"] for h in (header, unchanged)]
    assert len(kernels[0]) == 1
    assert kernels[0] == kernels[1]


def test_tuning_kernels_are_left_out_where_nobody_wants_them(make_rank: Maker, tmp_path: Path) -> None:
    """Switched off, and where tuning compiled nothing, no blob of that kind exists; nothing is put back either."""
    builder = make_rank(0, keeps=False)
    for header in (tuned_with_losers(builder, tmp_path, "loser1"), packed(make_rank(1))):
        assert "tuning_kernels" not in {row.kind for row in header.blobs}
    kept = make_rank(0)
    install(kept, tuned_with_losers(kept, tmp_path, "loser2"), kept)
    shutil.rmtree(tmp_path / "node0/nv")
    make_rank(0, keeps=False).survey(tunes=True)
    assert losers_on(tmp_path, 0) == set()


def test_damaged_tuning_kernels_cost_nothing_but_time(make_rank: Maker, tmp_path: Path) -> None:
    """A flipped blob is not put back, the survey goes on, and the next artifact has only what was compiled since."""
    builder = make_rank(0)
    header = tuned_with_losers(builder, tmp_path, "loser1")
    install(builder, header, builder)
    (blob,) = [row.sha256 for row in header.blobs if row.kind == "tuning_kernels"]
    path = Path(builder.store.directory) / "blobs" / blob
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    shutil.rmtree(tmp_path / "node0/nv")
    later = make_rank(0)
    assert later.survey(tunes=True).missing == ()
    assert losers_on(tmp_path, 0) == set()
    tuned_with_losers(later, tmp_path, "loser2")
    assert later.parts.delivery.artifact is not None
    kernels = tuning_kernels.opened(later.parts.delivery.artifact.contents("tuning_kernels"), 1 << 20)
    assert {Path(member.path).name for member in kernels} == {"loser2", "requirements.json"}


def kernels_in(process: RankProcess) -> set[str]:
    """What tuning compiled, of the artifact that a rank has packed."""
    assert process.parts.delivery.artifact is not None
    kernels = tuning_kernels.opened(process.parts.delivery.artifact.contents("tuning_kernels"), 1 << 20)
    return {Path(member.path).name for member in kernels} - {"requirements.json"}


def test_what_was_put_in_place_is_no_tune_s_own(make_rank: Maker, tmp_path: Path) -> None:
    """Kernels of other work, restored on a node with an empty driver cache, are not stored once more for each key."""
    other = make_rank(0, max_num_seqs=1)
    install(other, tuned_with_losers(other, tmp_path, "loser1"), other)
    shutil.rmtree(tmp_path / "node0/nv")
    surveyor, leader = make_rank(0), make_rank(0)  # two ranks of a node: one restores, another one packs
    surveyor.survey(tunes=True)
    assert losers_on(tmp_path, 0) == {"loser1"}
    tuned_with_losers(leader, tmp_path, "loser2")
    assert kernels_in(leader) == {"loser2"}


def test_what_others_compile_before_the_leader_s_first_task_counts(make_rank: Maker, tmp_path: Path) -> None:
    """Ranks of a node begin together: what the node's cache gets after the survey is the tune's."""
    leader = make_rank(0)
    leader.survey(tunes=True)
    (tmp_path / "node0/nv/9").mkdir(parents=True)
    (tmp_path / "node0/nv/9/loser1").write_bytes(b"compiled by another rank")
    packed(leader)
    assert kernels_in(leader) == {"loser1"}


def test_a_renewal_keeps_the_kernels_of_the_tune(make_rank: Maker, tmp_path: Path) -> None:
    """Without a tune nothing that others compile joins them, and they are not lost."""
    builder = make_rank(0)
    header = tuned_with_losers(builder, tmp_path, "loser1")
    install(builder, header, builder)
    later = make_rank(0, top_k_widths=[64])
    later.look_up("run-00006", retune=False)
    later.survey(tunes=False)
    (tmp_path / "node0/nv/9/foreign").write_bytes(b"an engine's beside the run")
    later.pack_stored(renew=True)
    assert kernels_in(later) == kernels_in(builder) == {"loser1"}


def test_a_disabled_driver_cache_gets_nothing(
    make_rank: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads what would be put there before a tune."""
    builder = make_rank(0)
    install(builder, tuned_with_losers(builder, tmp_path, "loser1"), builder)
    shutil.rmtree(tmp_path / "node0/nv")
    monkeypatch.setenv("CUDA_CACHE_DISABLE", "1")
    make_rank(0).survey(tunes=True)
    assert losers_on(tmp_path, 0) == set()
    monkeypatch.setenv("CUDA_CACHE_DISABLE", "0")
    make_rank(0).survey(tunes=True)
    assert losers_on(tmp_path, 0) == {"loser1"}


def test_kernels_of_a_tune_leave_room_for_those_of_winners(
    make_rank: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter of the driver's cache is not theirs, so that what a later run serves from still fits."""
    builder, winners = make_rank(0), make_rank(1)
    install(builder, tuned_with_losers(builder, tmp_path, "loser1"), builder)
    header = packed(winners)
    shutil.rmtree(tmp_path / "node0/nv")
    size = len(b"loser1") * 10_000
    for limit, restored in ((size, set()), (size * 4 // 3 + 1, {"loser1"})):
        monkeypatch.setenv("CUDA_CACHE_MAXSIZE", str(limit))
        tuner = make_rank(0, max_num_seqs=1)
        tuner.survey(tunes=True)
        assert losers_on(tmp_path, 0) == restored
    later = make_rank(0)
    install(later, header, winners)
    assert "kernel1" in compiled_on(tmp_path, 0)
