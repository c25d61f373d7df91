"""What a run's end table counts of an engine's kernels and of its table, beside the files of each cache kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ray_warmup.warmup.artifact.artifact import Content, table_content
from ray_warmup.warmup.artifact.table import Entry, TunedTable
from ray_warmup.warmup.engines.artifacts.content import content_of
from ray_warmup.warmup.engines.artifacts.rank_record import BesideRecord, CompileCounts, RankRecord
from ray_warmup.warmup.engines.launcher.captured_artifact import collect
from ray_warmup.warmup.engines.launcher.proof import Proof, problems_of
from ray_warmup.warmup.engines.launcher.proof_rows import proven_by
from ray_warmup.warmup.engines.start.engine_start import Started
from ray_warmup.warmup.messages.recorded import TableProof
from tests.artifacts import file_key
from tests.fakes import METADATA

KERNELS = (("sampler:topk", '{"key": "a"}'), ("sampler:gumbel", '{"key": "b"}'))


def told(home: Path, rank: int = 0) -> RankRecord:
    """The record of a rank that compiled one Triton kernel of its own and met two in all."""
    return RankRecord(
        rank=rank,
        pid=1,
        identity=(("engine", "vllm"), ("engine_version", "0.33.0"), ("cuda", "")),
        settings={},
        compile_factors={},
        places=(("triton_cache", str(home / "triton")),),
        modules=(),
        counts=CompileCounts({"triton_cache": 1}, {}, ()),
        deaf={},
        watched=(),
        specialisations=KERNELS[: rank + 1],
        placed={},
        lookup="not looked up",
        own_seconds=0.0,
        module_requirements={},
        is_warm=True,
    )


def started(*records: RankRecord) -> Started:
    """A start of these ranks."""
    return Started({"engine_s": 9.0, "first_answer_s": 1.0}, records, (), "")


def test_kernels_and_entries_of_the_table_are_recorded_and_carried(tmp_path: Path) -> None:
    """Both are one file for all ranks: what is carried is counted by entry."""
    home = tmp_path
    entries = {file_key(m=size): Entry("Fast", (1, 2)) for size in (1, 2, 4)}
    table = table_content(TunedTable(METADATA, entries, {}).to_bytes())
    artifact = collect(started(told(tmp_path), told(tmp_path, 1)), home, {}, further=(table,))

    content = content_of(artifact)

    assert {(row.rank, row.kind): row.count for row in content.recorded} == {
        (0, "autotune_configs"): 3,
        (0, "triton_cache"): 1,
        (0, "triton_kernels"): 1,
        (1, "autotune_configs"): 3,
        (1, "triton_cache"): 1,
        (1, "triton_kernels"): 2,
    }
    assert {row.kind: row.count for row in content.carried} == {"autotune_configs": 3, "triton_kernels": 2}


def test_an_engine_without_kernels_and_without_a_table_has_neither_row(tmp_path: Path) -> None:
    """Nothing is counted that was not there."""
    plain = replace(told(tmp_path), specialisations=())
    artifact = collect(started(plain), tmp_path, {}, further=(Content("recorded_requests", "a.json", b"{}"),))

    content = content_of(artifact)

    assert {row.kind for row in content.recorded} == {"triton_cache"}
    assert {row.kind for row in content.carried} == {"recorded_requests"}


def test_hits_of_the_table_and_loaded_kernels_are_found(tmp_path: Path) -> None:
    """In a proof start the hit column has the table's entries that were hit, and the kernels that were loaded."""
    proof = TableProof("ab", 3, own_hits=7, own_misses=(), hits=3, misses=(), unasked=())
    placed = {"autotune_configs": 3, "triton_kernels": 2}
    record = replace(told(tmp_path), counts=CompileCounts({}, {}, ()), placed=placed, table=proof, lookup="hit")

    rows = {row.kind: row for row in proven_by(Proof(started(record), ()), "0" * 64).kinds}

    assert {kind: (row.placed, row.found, row.compiled) for kind, row in rows.items()} == {
        "autotune_configs": (3, 3, 0),
        "triton_kernels": (2, 2, 0),
    }


def test_facts_of_models_are_counted_wherever_they_were_asked_for(tmp_path: Path) -> None:
    """Recorded where the front end inspected a class; in a proof its file is found, or it is no proof."""
    asked = replace(started(told(tmp_path)), besides=(BesideRecord(7, {}, 0.0, 0, ("qwen3.json",)),))
    content = content_of(collect(asked, tmp_path, {}))
    assert [(row.rank, row.count) for row in content.recorded if row.kind == "modelinfos"] == [(0, 1)]

    record = replace(told(tmp_path), counts=CompileCounts({}, {}, ()), lookup="hit")
    found = replace(started(record), besides=(BesideRecord(7, {"modelinfos": 1}, 0.0, 1, ()),))
    missed = replace(started(record), besides=(BesideRecord(7, {}, 0.0, 0, ("qwen3.json",)),))

    (row,) = proven_by(Proof(found, ()), "0" * 64).kinds
    assert (row.kind, row.placed, row.found, row.compiled) == ("modelinfos", 1, 1, 0)
    (row,) = proven_by(Proof(missed, ()), "0" * 64).kinds
    assert (row.placed, row.found, row.compiled) == (0, 0, 1)
    assert problems_of(found) == []
    assert problems_of(missed) == ["modelinfos: 1 inspected anew: qwen3.json"]
