"""A recording's smaller KV cache by vLLM's real planning.

Fetch the wheel first: `python -m tests.engines.fetch`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ray_warmup.warmup.engines.artifacts.rank_record import notes_in
from ray_warmup.warmup.engines.vllm import hooks, recording_cache
from tests.engines.fetch import NEWEST
from tests.engines.fetched import source_of
from tests.engines.real_cache_plan import GIB, Planner, planner
from tests.engines.wheel_source import WheelSource

LAYERS = 28
BLOCK = LAYERS * 65536
"""Bytes of a block of all layers."""


@pytest.fixture
def wheel() -> WheelSource:
    """The released vLLM."""
    return source_of(NEWEST[0])


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A start that is recorded and tuned, and where its processes tell."""
    monkeypatch.setenv("RAY_WARMUP_RECORD", str(tmp_path))
    monkeypatch.setenv("RAY_WARMUP_TUNE", "address")
    return tmp_path


def core(vllm: Planner) -> Callable[..., list[Any]]:
    """The planning function as the engine's core calls it, wrapped."""
    module = ModuleType("vllm.v1.engine.core")
    module.get_kv_cache_configs = vllm.planning.get_kv_cache_configs  # type: ignore[attr-defined]
    hooks._wrap_cache_plan(module)

    def plan(specs: list[dict[str, Any]], memory: list[int]) -> list[Any]:
        groups = vllm.planning.get_global_kv_cache_groups(vllm.vllm_config, specs)
        planned: list[Any] = module.get_kv_cache_configs(vllm.vllm_config, specs, memory, groups)  # type: ignore[attr-defined]
        return planned

    return plan


def test_a_recording_gets_a_quarter_of_the_blocks(
    wheel: WheelSource, recorded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fewer by a multiple of 16, with figures for log and report, and vLLM's configuration is as it was."""
    with planner(wheel) as vllm:
        specs, memory = [vllm.dense(0, LAYERS)], [60 * GIB]
        own, ours = vllm.plan(specs, memory), core(vllm)(specs, memory)
        override = vllm.vllm_config.cache_config.num_gpu_blocks_override

    assert own[0].num_blocks == 60 * GIB // BLOCK == 35108
    assert ours[0].num_blocks == 8788
    assert (own[0].num_blocks - ours[0].num_blocks) % 16 == 0
    assert ours[0].kv_cache_tensors[0].size == 8788 * BLOCK
    assert override is None
    (note,) = notes_in(recorded)
    assert note in caplog.text
    assert "its KV cache takes 15.02 instead of 60.00 GiB on each rank (8788 of 35108 blocks)" in note
    assert "tuning has 44.98 GiB more" in note


@pytest.mark.parametrize("variable", ["RAY_WARMUP_RECORD", "RAY_WARMUP_TUNE"])
def test_no_other_start_is_touched(
    wheel: WheelSource,
    recorded: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variable: str,
) -> None:
    """A serving start, a proof and a recording without tuning take what vLLM plans, and nothing is said."""
    monkeypatch.delenv(variable)
    with planner(wheel) as vllm:
        specs, memory = [vllm.dense(0, LAYERS)], [60 * GIB]
        assert core(vllm)(specs, memory) == vllm.plan(specs, memory)
    assert caplog.text == ""
    assert notes_in(recorded) == ()


@pytest.mark.usefixtures("recorded")
def test_an_engine_that_does_not_autotune_keeps_its_cache(wheel: WheelSource) -> None:
    """There is nothing to tune in it."""
    with planner(wheel, kernel_config__enable_flashinfer_autotune=False) as vllm:
        specs, memory = [vllm.dense(0, LAYERS)], [60 * GIB]
        assert core(vllm)(specs, memory) == vllm.plan(specs, memory)


@pytest.mark.usefixtures("recorded")
def test_stages_of_a_pipeline_get_equal_blocks(wheel: WheelSource) -> None:
    """The core plans for all ranks, whatever memory each has."""
    with planner(wheel) as vllm:
        specs = [vllm.dense(0, 14), vllm.dense(14, LAYERS)]
        own, ours = vllm.plan(specs, [30 * GIB, 20 * GIB]), core(vllm)(specs, [30 * GIB, 20 * GIB])
    assert [rank.num_blocks for rank in own] == [23405, 23405]
    assert [rank.num_blocks for rank in ours] == [5853, 5853]


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"model_config__max_model_len": 131072}, 8192 + 1 + 1),
        ({"scheduler_config__max_num_seqs": 1024}, 1024 + 1),
        ({"scheduler_config__max_num_seqs": 4}, 256 + 1 + 1),
    ],
)
@pytest.mark.usefixtures("recorded")
def test_a_recording_keeps_what_its_requests_need(
    wheel: WheelSource, settings: dict[str, int], needed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """One request of the greatest length beside a short one, or a step of short ones; vLLM accepts just that."""
    with planner(wheel, **settings) as vllm:
        specs = [vllm.dense(0, LAYERS)]
        for spare in (0, 16, 40):
            blocks = needed + spare
            kept = core(vllm)(specs, [blocks * BLOCK])[0].num_blocks
            assert kept == blocks - spare // 16 * 16
    assert f"keeps all of its {needed} blocks: its requests need {needed}" in caplog.text


@pytest.mark.usefixtures("recorded")
def test_vllm_refuses_less_than_its_longest_request(wheel: WheelSource) -> None:
    """The bound that is kept is vLLM's own: a block less than request and reserved block, and it refuses."""
    with planner(wheel) as vllm:
        specs = [vllm.dense(0, LAYERS)]
        assert vllm.plan(specs, [257 * BLOCK])[0].num_blocks == 257
        with pytest.raises(ValueError, match="KV cache"):
            vllm.plan(specs, [256 * BLOCK])


@pytest.mark.usefixtures("recorded")
def test_sliding_windows_are_counted_as_vllm_counts_them(wheel: WheelSource) -> None:
    """Each group of layers takes blocks of one pool, a window never more than it sees."""
    with planner(wheel, model_config__max_model_len=32768) as vllm:
        config, specs = vllm.vllm_config, [{**vllm.dense(0, 7), **vllm.sliding(7, LAYERS)}]
        own, ours = vllm.plan(specs, [40 * GIB]), core(vllm)(specs, [40 * GIB])
        short = recording_cache._blocks_of_request(config, own[0], recording_cache.SHORT_REQUEST)
        needed = recording_cache.blocks_needed(config, own[0])
        config.cache_config.num_gpu_blocks_override = needed - short
        vllm.plan(specs, [40 * GIB])
        config.cache_config.num_gpu_blocks_override = needed - short - 1
        with pytest.raises(ValueError, match="KV cache"):
            vllm.plan(specs, [40 * GIB])
    assert len(own[0].kv_cache_groups) == 4
    assert (own[0].num_blocks, ours[0].num_blocks) == (93622, 23414)


@pytest.mark.usefixtures("recorded")
def test_drafted_tokens_lengthen_a_short_request(wheel: WheelSource) -> None:
    """vLLM's warmup drafts in five steps for each of its requests."""
    with planner(wheel) as vllm:
        own = vllm.plan([vllm.dense(0, LAYERS)], [60 * GIB])
        vllm.vllm_config.speculative_config = SimpleNamespace(num_speculative_tokens=3)
        assert recording_cache.blocks_needed(vllm.vllm_config, own[0]) == 256 * 3 + 1


@pytest.mark.usefixtures("recorded")
def test_the_users_number_of_blocks_is_the_upper_bound(wheel: WheelSource) -> None:
    """`num_gpu_blocks_override` is lowered for the recording and stands again afterwards."""
    with planner(wheel, cache_config__num_gpu_blocks_override=2000) as vllm:
        ours = core(vllm)([vllm.dense(0, LAYERS)], [60 * GIB])
        assert vllm.vllm_config.cache_config.num_gpu_blocks_override == 2000
    assert ours[0].num_blocks == 512


@pytest.mark.usefixtures("recorded")
def test_a_length_that_is_fitted_to_the_memory_stays(wheel: WheelSource, caplog: pytest.LogCaptureFixture) -> None:
    """It is in the compile key, and is the one of a serving start: the cache keeps all that this length needs."""
    automatic = {"model_config__original_max_model_len": -1, "model_config__max_model_len": 131072}
    with planner(wheel, **automatic) as vllm:
        ours = core(vllm)([vllm.dense(0, LAYERS)], [10 * GIB])
        fitted = vllm.vllm_config.model_config.max_model_len
    assert fitted == (ours[0].num_blocks - 1) * 16 == 93600
    assert "keeps all of its 5851 blocks" in caplog.text


@pytest.mark.usefixtures("recorded")
def test_trouble_is_one_line_and_vllms_own_cache(
    wheel: WheelSource, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """vLLM refuses a cache that was counted too small: nothing of the second plan is left."""
    monkeypatch.setattr(recording_cache, "blocks_needed", lambda *_: 1)
    with planner(wheel) as vllm, caplog.at_level(logging.WARNING):
        specs, memory = [vllm.dense(0, LAYERS)], [300 * BLOCK]
        assert core(vllm)(specs, memory) == vllm.plan(specs, memory)
        assert vllm.vllm_config.cache_config.num_gpu_blocks_override is None
        assert vllm.vllm_config.model_config.max_model_len == 4096
    assert caplog.text.count("leaving memory to tuning failed, so the engine starts as without it: ValueError") == 1
