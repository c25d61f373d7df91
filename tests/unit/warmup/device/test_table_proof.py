"""The proof of a table in a process: its own lookups, every recorded task, and which class of ranks it belongs to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from flashinfer.autotuner import AutoTuner, TuningConfig, autotune

from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.device.request_recorder import RequestRecorder
from ray_warmup.warmup.device.table_proof import LookupWatch
from ray_warmup.warmup.workloads.cpu_gemm_op import cpu_gemm
from ray_warmup.warmup.workloads.live_request import PROCESS, LiveRequests
from ray_warmup.warmup.workloads.recorded_request import Recording
from tests import planted_tactics as planted

SMALL, LARGE = (16, 8), (32, 8)


class Talking(planted.PlantedRunner):
    """A runner of FlashInfer's package of collectives."""


Talking.__module__ = "flashinfer.comm.planted"


class Silent(planted.PlantedRunner):
    """A runner whose results nobody can compare, as FlashInfer's experts have it."""

    def forward(self, inputs: list[Any], tactic: int = -1, do_preparation: bool = False, **_: Any) -> Any:
        """Nothing."""
        return None


class TwoSizes(planted.PlantedRunner):
    """A runner that is asked with two tuned dimensions."""


def recorded(*shapes: tuple[int, int]) -> Recording:
    """The recording of a rank that asks for GEMMs of these (K, N)."""
    PROCESS.clear()
    with RequestRecorder(PROCESS).recording():
        ask(4, *shapes)
    return PROCESS.recording()


def ask(tokens: int, *shapes: tuple[int, int]) -> None:
    """A forward."""
    for k, n in shapes:
        cpu_gemm(torch.randn(tokens, k), torch.randn(n, k))


@pytest.fixture
def watch(tmp_path: Path) -> LookupWatch:
    """Two classes of ranks: one asks for a GEMM more. Their table is loaded."""
    first = recorded(SMALL)
    both = recorded(SMALL, LARGE)
    tuner = FlashInferTuner("cpu")
    table = tuner.table([tuner.tune(task) for task in both.tasks], [])
    assert table is not None
    path = tmp_path / "table.json"
    path.write_bytes(table)
    assert AutoTuner.get().load_configs(str(path))
    PROCESS.clear()
    return LookupWatch(parse_table(table), (first, both), LiveRequests())


def test_a_rank_is_held_to_the_requests_of_its_own_class(watch: LookupWatch) -> None:
    """Whoever asks for the small GEMM alone is of the class that recorded that alone."""
    with watch.watching():
        ask(4, SMALL)
        ask(3, SMALL)
    proof = watch.proof()
    assert (proof.own_hits, proof.own_misses) == (2, ())
    assert (proof.hits, proof.entries) == (3, 6)
    assert (proof.misses, proof.unasked) == ((), ())


def test_all_buckets_are_looked_up_although_two_sizes_ran(watch: LookupWatch) -> None:
    """And the proof's own lookups are not counted as the engine's."""
    with watch.watching():
        ask(4, SMALL, LARGE)
        ask(1, SMALL, LARGE)
        proof = watch.proof()
        again = watch.proof()
    assert proof == again
    assert (proof.own_hits, proof.hits, proof.unasked) == (4, 6, ())


def test_what_was_never_asked_for_and_what_missed_is_named(watch: LookupWatch, tmp_path: Path) -> None:
    """A request of no class, and one whose entry the loaded table lacks, with the nearest key."""
    lacking = tmp_path / "lacking.json"
    held = json.loads((tmp_path / "table.json").read_text())
    kept = {key: value for key, value in held.items() if "((4, 32)" not in key}
    assert len(kept) == len(held) - 1
    lacking.write_text(json.dumps(kept))
    AutoTuner.get().clear_cache()
    assert AutoTuner.get().load_configs(str(lacking))
    with watch.watching():
        ask(4, LARGE)
    proof = watch.proof()
    assert proof.unasked == ("cpu_gemm *x16 8x16",)
    (miss,) = proof.own_misses
    assert "no entry for ('cpu_gemm', 'DirectGemmRunner', ((4, 32), (8, 32))" in miss
    assert "the nearest is ('cpu_gemm', " in miss
    assert proof.beyond == 0


def test_more_tokens_than_the_engine_tunes_itself_are_no_miss(watch: LookupWatch) -> None:
    """The engine's own tuning ends at the sizes of its dummy forward, and the default serves what lies beyond."""
    with watch.watching():
        ask(300, LARGE)
        ask(280, LARGE)
    proof = watch.proof()
    assert (proof.own_misses, proof.beyond) == ((), 1)


def ask_beside(runner: planted.PlantedRunner, tokens: int = 4) -> None:
    """A forward of a GEMM and of an op with this runner."""
    ask(tokens, SMALL)
    config = planted.CONFIG
    if isinstance(runner, TwoSizes):
        config = TuningConfig(dynamic_tensor_specs=config.dynamic_tensor_specs * 2)
    given = [torch.randn(tokens, 16), torch.randn(16, 8)]
    chosen, tactic = AutoTuner.get().choose_one("beside", [runner], config, given)
    chosen(given, tactic=tactic)


@pytest.mark.parametrize(("kind", "defaults"), [(Talking, 3), (Silent, 3), (TwoSizes, 0)])
def test_what_is_not_tuned_has_its_default_in_the_table_and_is_no_miss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[planted.PlantedRunner], defaults: int
) -> None:
    """An op that communicates or cannot be compared: an engine that loads the table does not tune it itself."""
    PROCESS.clear()
    with RequestRecorder(PROCESS).recording():
        ask_beside(kind())
    recording = PROCESS.recording()
    tuner = FlashInferTuner("cpu")
    left_out = {skip.workload: skip.reason for skip in tuner.prepare(recording.workloads)}
    tasks = [task for task in recording.tasks if task.workload.name not in left_out]
    others = [task for task in recording.every_task if task not in tasks]
    assert len(tasks) == len(others) == 3
    table = tuner.table([tuner.tune(task) for task in tasks], [], others)
    assert table is not None
    entries = parse_table(table).entries
    assert [entry.tactic for key, entry in entries.items() if "beside" in key] == [-1] * defaults

    path = tmp_path / "table.json"
    path.write_bytes(table)
    assert AutoTuner.get().load_configs(str(path))
    PROCESS.clear()
    watch = LookupWatch(parse_table(table), (recording.with_defaults(left_out),), LiveRequests())
    with watch.watching():
        for _ in range(2):
            ask_beside(kind())
    proof = watch.proof()
    assert (proof.own_misses, proof.misses, proof.unasked) == ((), (), ())
    assert proof.hits == proof.entries == 3 + defaults
    assert proof.own_hits == (4 if defaults else 2)
    if defaults:
        monkeypatch.setattr(AutoTuner, "_profile_single_kernel", lambda *_, **__: pytest.fail("timed"))
        with autotune(True):
            ask_beside(kind())


def test_what_an_engine_tunes_outside_of_what_is_recorded_is_no_miss(
    watch: LookupWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An op that no rank recorded and that hits; one that does not hit is a miss."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(AutoTuner, "_profile_single_kernel", lambda *_, **__: 1.0)  # needs a GPU's events
    runner, given = planted.PlantedRunner(), [torch.randn(4, 16), torch.randn(16, 8)]

    def ask_elsewhere() -> None:
        AutoTuner.get().choose_one("elsewhere", [runner], planted.CONFIG, given)

    with autotune(True):
        ask_elsewhere()
    with watch.watching():
        ask(4, SMALL)
        ask_elsewhere()
    assert watch.proof().own_misses == ()
    AutoTuner.get().clear_cache()
    with watch.watching():
        ask_elsewhere()
    (miss,) = watch.proof().own_misses
    assert "no entry for ('elsewhere', 'PlantedRunner'" in miss
