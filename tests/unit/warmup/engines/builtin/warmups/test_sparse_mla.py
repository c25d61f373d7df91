"""The sparse-MLA attention shapes, and the SM120 decode autotune that may take the mixed one."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ray_warmup.warmup.artifact.manifest import TABLE_NAME
from ray_warmup.warmup.artifact.table import Entry, TunedTable, parse_table
from ray_warmup.warmup.engines.builtin.runner.kv_cache import KVCacheConfig, interleaved_groups
from ray_warmup.warmup.engines.builtin.runner.protocol import Capability, SchedulerLimits
from ray_warmup.warmup.engines.builtin.warmups.run import run_engine_warmups
from ray_warmup.warmup.engines.builtin.warmups.sm120_decode import (
    CALIBRATION_NAME,
    CalibrationTuning,
    ContextTuning,
    SM120DecodeWarmup,
    find_tuning,
    merge_into_artifact,
)
from ray_warmup.warmup.engines.builtin.warmups.sparse_mla import MIXED, PREFILL, SECOND_CHUNK, SparseMLAWarmup
from ray_warmup.warmup.engines.builtin.warmups.spec import Shape, Skip, TunedFile
from ray_warmup.warmup.errors import CorruptArtifactError, EngineWarmupError, RejectedArtifactError, WarmupError
from tests.fakes import METADATA, DecodeEntryPoint, ForeignRunner, NamedBackend

SM120 = (12, 0)


def sparse_runner(
    tokens: int = 4096, length: int = 8192, backend: str | None = "DEEPSEEK_SPARSE_SWA", **change: Any
) -> Any:
    """An engine's sparse-MLA runner: one abstract backend, one by name."""
    runner = ForeignRunner(
        SchedulerLimits(tokens, 32, length),
        KVCacheConfig(50, interleaved_groups(1, (64,))),
        frozenset(Capability) - {Capability.BUFFERS, Capability.ZERO_BLOCKS, Capability.KV_CONNECTOR},
        backend,
    )
    for name, value in change.items():
        setattr(runner, name, value)
    return runner


def table(entries: dict[str, Entry], **metadata: str) -> bytes:
    """A file of FlashInfer's layout."""
    return TunedTable(METADATA | metadata, entries, {}).to_bytes()


def key(op: str, tokens: int) -> str:
    """A file key of one task of a scripted runner."""
    return str((op, "R", ((tokens, 64),), ()))


@pytest.fixture
def two_tables() -> tuple[bytes, bytes, str, str]:
    """A main and a decode table with one entry each, and their keys."""
    main, decode = key("bf16_gemm", 8), key("sparse_mla_decode", 16)
    return table({main: Entry("R", 1)}), table({decode: Entry("R", 2)}), main, decode


def test_three_shapes(make_context: Any) -> None:
    """Mixed, a single maximal chunk, and a second chunk with twice the sequence length."""
    runner = sparse_runner()

    report = run_engine_warmups(make_context(runner), (SparseMLAWarmup(),))

    assert report.outcome("sparse_mla").state == "done"
    assert runner.calls == [("mixed", (16, None)), ("prefill", (1024, None)), ("prefill", (1024, 2048))]


def test_shapes_that_the_runner_cannot_make_are_left_out(make_context: Any) -> None:
    """A runner without single prefills runs the mixed shape; without forced attention it is skipped with the reason."""
    runner = sparse_runner()
    runner.capabilities -= {Capability.SINGLE_PREFILL}
    context = make_context(runner, capability=SM120, autotune=True)
    assert [shape.kind for shape in SparseMLAWarmup().shapes(context)] == [MIXED]

    runner.capabilities -= {Capability.FORCE_ATTENTION}

    assert SparseMLAWarmup().gate(context) == Skip("runner lacks force_attention")
    assert SM120DecodeWarmup().gate(context) == Skip("runner lacks force_attention")


def test_a_swallowed_argument_is_a_failure_not_a_skip(make_context: Any) -> None:
    """A runner that declares more than its signature takes fails by name: it must not pass for warmed."""
    runner = sparse_runner()
    runner.dummy_run = lambda num_tokens, **ignored: None

    outcome = run_engine_warmups(make_context(runner), (SparseMLAWarmup(),)).outcome("sparse_mla")

    assert outcome.blocks_readiness
    assert "would ignore create_mixed_batch" in outcome.reason


def test_token_counts_are_clamped(make_context: Any) -> None:
    """Counts stay within the tokens of a step, the second chunk within the model's length."""
    context = make_context(sparse_runner(tokens=12, length=20))

    assert SparseMLAWarmup().shapes(context) == (Shape(MIXED, 12), Shape(PREFILL, 12, 1), Shape(SECOND_CHUNK, 10, 1))


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        ({"is_pooling_model": True}, {}, "pooling model"),
        ({"backend": "FLASHINFER"}, {}, "no sparse-MLA backend among FLASHINFER"),
        ({"backend": None}, {}, "no sparse-MLA backend among none"),
        ({}, {"sparse_mla": False}, "engine.sparse_mla is off"),
    ],
)
@pytest.mark.parametrize("warmup", [SparseMLAWarmup(), SM120DecodeWarmup()])
def test_shared_gates(make_context: Any, warmup: Any, change: Any, options: Any, reason: str) -> None:
    """Pooling models, other backends, abstract backends and the switch each skip with a reason."""
    runner = sparse_runner(**change)

    skip = warmup.gate(make_context(runner, capability=SM120, autotune=True, **options))

    assert isinstance(skip, Skip)
    assert reason in skip.reason


@pytest.mark.parametrize("name", ["V4_FLASHMLA_SPARSE", "DEEPSEEK_SPARSE_SWA"])
def test_both_backends_are_recognised(make_context: Any, name: str) -> None:
    """Either sparse-MLA backend opens the gate, next to one that raises NotImplementedError."""
    runner = sparse_runner(attention_backends=(NamedBackend(None), NamedBackend(name)))

    assert SparseMLAWarmup().gate(make_context(runner)) is None


@pytest.mark.parametrize(
    ("capability", "options", "reason"),
    [
        (SM120, {}, "autotune is not switched on explicitly"),
        (SM120, {"autotune": False}, "autotune is not switched on explicitly"),
        ((9, 0), {"autotune": True}, "compute capability is (9, 0), not of the SM120 family"),
        (None, {"autotune": True}, "compute capability is None"),
    ],
)
def test_decode_autotune_gates(make_context: Any, capability: Any, options: Any, reason: str) -> None:
    """Only an explicit true counts, and only GPUs of the family."""
    skip = SM120DecodeWarmup().gate(make_context(sparse_runner(), capability=capability, **options))

    assert isinstance(skip, Skip)
    assert reason in skip.reason


def tuned(make_context: Any, runner: Any, entry: Any, path: Path, **context: Any) -> Any:
    """Run the autotune and the attention shapes with a stand-in entry point."""
    find = lambda given: None if entry is None else ContextTuning(entry, Path(given))  # noqa: E731
    made = make_context(runner, capability=SM120, autotune=True, decode_tune_path=str(path), **context)
    return run_engine_warmups(made, (SM120DecodeWarmup(find), SparseMLAWarmup()))


def test_the_leader_tunes_with_the_mixed_shape_once(make_context: Any, tmp_path: Path) -> None:
    """The mixed step runs inside the entry point and not again; what was tuned is handed on."""
    runner, entry = sparse_runner(), DecodeEntryPoint(b'{"x": 1}')

    report = tuned(make_context, runner, entry, tmp_path / "decode.json")

    assert [kind for kind, _ in runner.calls] == ["mixed", "prefill", "prefill"]
    assert entry.entered == 1
    assert report.tuned == (TunedFile(TABLE_NAME, b'{"x": 1}'),)
    assert report.warnings == ()


def test_a_follower_runs_the_mixed_shape_untuned(make_context: Any, tmp_path: Path) -> None:
    """A rank that is not the leader takes the same steps, so that collectives match, and tunes nothing."""
    runner, entry = sparse_runner(), DecodeEntryPoint(b"{}")

    report = tuned(make_context, runner, entry, tmp_path / "decode.json", is_leader=False)

    assert [kind for kind, _ in runner.calls] == ["mixed", "prefill", "prefill"]
    assert (entry.entered, report.tuned) == (0, ())


def test_nothing_tuned_is_a_warning_and_not_run_again(make_context: Any, tmp_path: Path) -> None:
    """An entry point that writes nothing is reported; the mixed shape counts as run."""
    runner = sparse_runner()

    report = tuned(make_context, runner, DecodeEntryPoint(None), tmp_path / "decode.json")

    assert [kind for kind, _ in runner.calls] == ["mixed", "prefill", "prefill"]
    assert report.warnings == ("sm120_decode: nothing was tuned; FlashInfer's heuristic serves sparse-MLA decode",)
    assert report.ready


@pytest.mark.parametrize("is_leader", [True, False])
def test_a_missing_entry_point_is_one_warning_and_the_mixed_step_still_runs(
    make_context: Any, tmp_path: Path, caplog: Any, is_leader: bool
) -> None:
    """Without the API there is exactly one warning, on every rank alike, and the plain mixed step runs."""
    runner = sparse_runner()

    with caplog.at_level(logging.WARNING):
        report = tuned(make_context, runner, None, tmp_path / "x", is_leader=is_leader)

    assert [kind for kind, _ in runner.calls] == ["mixed", "prefill", "prefill"]
    assert len(caplog.records) == len(report.warnings) == 1
    assert "no sparse-MLA decode autotune" in report.warnings[0]
    assert report.outcome("sm120_decode").state == "skipped"


def test_the_entry_point_needs_a_path_on_the_leader() -> None:
    """Without a private file to write, the message names the setting."""
    with pytest.raises(EngineWarmupError, match="decode_tune_path"):
        ContextTuning(DecodeEntryPoint(b""), None).tune(lambda: None)


@pytest.mark.parametrize(("calibrated", "written", "expected"), [(2, True, True), (0, True, False), (2, False, False)])
def test_calibration_gives_its_second_file(tmp_path: Path, calibrated: int, written: bool, expected: bool) -> None:
    """The calibration's own file is taken from where its report says; no profile or no file is nothing tuned."""
    path, ran = tmp_path / "cpb.json", []
    if written:
        path.write_text('{"profiles": 2}')
    report = SimpleNamespace(cache_path=str(path), entries_calibrated=calibrated, entries_skipped=0)

    file = CalibrationTuning(lambda: report).tune(lambda: ran.append(1))

    assert file == (TunedFile(CALIBRATION_NAME, b'{"profiles": 2}') if expected else None)
    assert ran == [1]


def test_the_installed_flashinfer_has_the_calibration() -> None:
    """FlashInfer 0.7.2 offers the calibration, not the context manager of older builds."""
    import flashinfer.mla

    assert find_tuning(None) == CalibrationTuning(flashinfer.mla.calibrate_sparse_mla_sm120)


def test_the_older_entry_point_wins_where_it_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """A FlashInfer with the context manager is driven through it."""
    import flashinfer

    entry = DecodeEntryPoint(b"")
    monkeypatch.setattr(flashinfer, "sparse_mla_sm120_decode_dsv4_autotune", entry, raising=False)

    assert find_tuning("/x/decode.json") == ContextTuning(entry, Path("/x/decode.json"))


def test_tuned_decode_entries_join_the_main_table(two_tables: tuple[bytes, bytes, str, str]) -> None:
    """Both tables' entries end in one blob; a second file lies beside it."""
    main, decode, main_key, decode_key = two_tables

    blobs = merge_into_artifact(main, (TunedFile(TABLE_NAME, decode), TunedFile(CALIBRATION_NAME, b"{}")))

    assert set(blobs) == {TABLE_NAME, CALIBRATION_NAME}
    assert set(parse_table(blobs[TABLE_NAME]).entries) == {main_key, decode_key}
    assert json.loads(blobs[TABLE_NAME])["_metadata"] == METADATA


def test_without_a_main_table_the_tuned_one_is_it(two_tables: tuple[bytes, bytes, str, str]) -> None:
    """A main tune that found nothing does not lose the decode's entries; nothing at all gives no blob."""
    _, decode, _, _ = two_tables

    assert merge_into_artifact(None, (TunedFile(TABLE_NAME, decode),)) == {TABLE_NAME: decode}
    assert merge_into_artifact(None, ()) == {}


@pytest.mark.parametrize(
    ("decode", "error", "message"),
    [
        (
            table({key("sparse_mla_decode", 16): Entry("R", 2)}, gpu="Other"),
            RejectedArtifactError,
            "another environment",
        ),
        (table({key("bf16_gemm", 8): Entry("R", 9)}), RejectedArtifactError, "contradicts the main table"),
        (b'{"half', CorruptArtifactError, "JSON"),
    ],
)
def test_a_foreign_or_damaged_decode_table_is_refused(
    two_tables: tuple[bytes, bytes, str, str], decode: bytes, error: type[WarmupError], message: str
) -> None:
    """A table of another GPU, one that contradicts the main table and half a file never reach the artifact."""
    with pytest.raises(error, match=message):
        merge_into_artifact(two_tables[0], (TunedFile(TABLE_NAME, decode),))


def test_a_damaged_second_file_is_refused() -> None:
    """A calibration file that is not JSON, and two different ones, never reach the artifact."""
    half, whole, other = (TunedFile(CALIBRATION_NAME, data) for data in (b'{"half', b"{}", b'{"a": 1}'))

    with pytest.raises(CorruptArtifactError, match=f"{CALIBRATION_NAME} is not JSON"):
        merge_into_artifact(None, (half,))
    with pytest.raises(RejectedArtifactError, match="two different files"):
        merge_into_artifact(None, (whole, other))
