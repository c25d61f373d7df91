"""From a decode autotune on the leader to one artifact: a stand-in entry point, the real engine, rank and store."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ray_warmup.configs import parse_config
from ray_warmup.warmup.artifact.artifact import Blob
from ray_warmup.warmup.artifact.table import Entry, TunedTable, parse_table
from ray_warmup.warmup.caches.decode_profiles import FILE_NAME
from ray_warmup.warmup.errors import EngineWarmupError
from ray_warmup.warmup.messages.values import Header, TextFile
from ray_warmup.warmup.rank.process import RankProcess
from ray_warmup.warmup.ranks import RankInfo
from tests.fakes import METADATA, DecodeEntryPoint, ScriptedTuner
from tests.lone_rank import blobs_of, pack, traveled
from tests.models import TINY

ENGINE = {"enabled": True, "sparse_mla_backends": ["TORCH_REFERENCE"], "verify_requests": 0}
SM120 = {"arch": "120f"}
KEY = str(("sparse_mla_sm120", "R", ((16, 64),), ()))
Maker = Callable[..., RankProcess]


@pytest.fixture
def make_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """`make_rank(rank, parts=..., engine=..., enabled=...)`: a probed rank; its attention counts as sparse."""
    monkeypatch.setenv("FLASHINFER_AUTOTUNE_DIR", str(tmp_path / "autotune"))
    (tmp_path / "config.json").write_text(json.dumps(TINY))

    def make(rank: int = 0, parts: Any = SM120, enabled: bool | None = True, **engine: Any) -> RankProcess:
        given = {
            "cluster": {"world_size": 4, "gpus_per_rank": 0},
            "model": {"name": str(tmp_path / "config.json")},
            "autotune": {"max_num_batched_tokens": 8, "max_num_seqs": 2, "enabled": enabled},
            "engine": {**ENGINE, **engine},
            "cache": {"root": str(tmp_path / f"node{rank // 2}")},
        }
        info = RankInfo(rank, 4, rank % 2, 2, rank // 2, f"node{rank // 2}", rank, (), "127.0.0.1", os.getpid())
        tuner = ScriptedTuner({"parts": parts})
        process = RankProcess(info, parse_config(given), "cpu", lambda backend, options: tuner)
        process.described, process.outlined = process.probe(), process.outline()  # type: ignore[attr-defined]
        return process

    return make


@pytest.fixture
def entry_point(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes | None], DecodeEntryPoint]:
    """`entry_point(content)`: this FlashInfer has the context manager, which "tunes" that into its file."""
    import flashinfer

    def install(content: bytes | None) -> DecodeEntryPoint:
        entry = DecodeEntryPoint(content)
        monkeypatch.setattr(flashinfer, "sparse_mla_sm120_decode_dsv4_autotune", entry, raising=False)
        return entry

    return install


def decode_table(**metadata: str) -> bytes:
    """What the entry point writes for one decode task."""
    return TunedTable(METADATA | metadata, {KEY: Entry("R", 2)}, {}).to_bytes()


def packed(process: RankProcess, tuned: Sequence[TextFile]) -> tuple[Header, dict[str, Blob], tuple[str, ...]]:
    """The main tune and what the engine's step tuned, as one artifact; and what it warned of."""
    results = [process.tune(task.task_id).result for task in process.outlined.tasks]  # type: ignore[attr-defined]
    answer = traveled(pack(process, results, tuned=tuple(tuned)))
    assert answer.header is not None
    return answer.header, blobs_of(process, answer.header), answer.warnings


def test_the_leader_tunes_and_one_artifact_serves_everyone(
    make_rank: Maker, entry_point: Callable[[bytes | None], DecodeEntryPoint]
) -> None:
    """The decode's entry is in the table that every rank loads, also in a later run that finds it."""
    entry = entry_point(decode_table())
    leader, writer = make_rank(0), make_rank(2)
    assert leader.described.tunes_engine is True  # type: ignore[attr-defined]
    answer = traveled(leader.tune_engine())
    assert (entry.entered, answer.warnings) == (1, ())
    header, blobs, warnings = packed(leader, answer.tuned)
    assert warnings == ()
    assert writer.install(header, blobs).degraded is None
    assert writer.load(header.digest, None, {}).digest == header.digest
    table = parse_table((Path(writer.described.directory) / "autotune_configs.json").read_bytes())  # type: ignore[attr-defined]
    assert KEY in table.entries
    assert len(table.entries) == len(leader.outlined.tasks) + 1  # type: ignore[attr-defined]
    later = make_rank(3)
    assert later.look_up("run-00003", retune=False).hit
    found = later.recall_table()
    assert found.tuned == answer.tuned
    assert packed(make_rank(3), found.tuned)[0].digest == header.digest  # guarding it again keeps the entry


def test_the_calibration_is_a_second_file_of_the_artifact(
    make_rank: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """FlashInfer 0.7.2's way: its file travels beside the table and lands where FlashInfer reads it."""
    import flashinfer.mla

    own = tmp_path / "leader.json"
    own.write_text('{"devices": {"gpu": 1}}')
    report = SimpleNamespace(cache_path=str(own), entries_calibrated=2, entries_skipped=0)
    monkeypatch.setattr(flashinfer.mla, "calibrate_sparse_mla_sm120", lambda: report)
    leader, writer = make_rank(0), make_rank(2)
    plain = packed(leader, [])[0]
    header, blobs, _ = packed(leader, leader.tune_engine().tuned)
    assert header.digest == plain.digest
    assert "sparse_mla" in {row.kind for row in header.blobs}
    assert writer.install(header, blobs).counts["sparse_mla"] == 1
    assert json.loads((tmp_path / "autotune" / FILE_NAME).read_text()) == {"devices": {"gpu": 1}}


@pytest.mark.parametrize(
    ("change", "tunes"),
    [
        ({}, True),
        ({"parts": {"arch": "90a"}}, False),
        ({"parts": {"arch": "scripted"}}, False),
        ({"enabled": None}, False),
        ({"sparse_mla": False}, False),
        ({"disabled": ["sm120_decode"]}, False),
    ],
)
def test_who_says_that_there_is_something_to_tune(make_rank: Maker, change: dict[str, Any], tunes: bool) -> None:
    """Only with tuning explicitly on, a sparse-MLA backend and a GPU of the family."""
    assert make_rank(0, **change).described.tunes_engine is tunes  # type: ignore[attr-defined]


def test_nothing_tuned_is_a_warning(make_rank: Maker, entry_point: Callable[[bytes | None], DecodeEntryPoint]) -> None:
    """An entry point that writes nothing costs a warning; the table is packed as it is."""
    entry_point(None)
    leader = make_rank(0)
    answer = leader.tune_engine()
    assert answer.tuned == ()
    assert "nothing was tuned" in answer.warnings[0]
    assert packed(leader, [])[2] == ()


def test_a_foreign_decode_table_does_not_hold_the_main_one_up(make_rank: Maker) -> None:
    """Entries of another environment are left out with a warning, and the digest is that of the main table."""
    leader = make_rank(0)
    foreign = TextFile("autotune_configs.json", decode_table(gpu="Another").decode())
    header, _, warnings = packed(leader, [foreign])
    assert header.digest == packed(leader, [])[0].digest
    assert "is left out: tuned decode table is of another environment" in warnings[0]


def test_a_required_one_that_fails_is_an_error(make_rank: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `engine.required` naming it, what the entry point raises is the rank's error."""
    import flashinfer.mla

    def broken() -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(flashinfer.mla, "calibrate_sparse_mla_sm120", broken)
    assert "planted" in make_rank(0).tune_engine().warnings[0]
    with pytest.raises(EngineWarmupError, match="planted"):
        make_rank(0, required=["sm120_decode"]).tune_engine()
