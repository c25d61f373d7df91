"""A rank's share of the model as an engine, and the stand-in that answers for it when a run is planned."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from ray_warmup.configs import WarmupConfig, parse_config
from ray_warmup.configs.engine_warmups import DEFAULT_DEADLINES, EngineWarmupName
from ray_warmup.configs.model import ModelDims, load_model
from ray_warmup.configs.schema import EngineSection
from ray_warmup.warmup.engines.builtin.runner.attention import FlashInferPagedAttention
from ray_warmup.warmup.engines.builtin.runner.mla import FlashInferLatentAttention
from ray_warmup.warmup.engines.builtin.runner.protocol import Capability
from ray_warmup.warmup.engines.builtin.runner.runner_config import attention_name, capabilities_on
from ray_warmup.warmup.engines.builtin.warmups.all_warmups import ENGINE_WARMUPS
from ray_warmup.warmup.engines.builtin.warmups.builtin_engine import BuiltinEngine
from ray_warmup.warmup.engines.builtin.warmups.engine_outline import (
    OutlinedRunner,
    engine_options,
    outline_of,
    weight_bytes,
)
from ray_warmup.warmup.engines.builtin.warmups.spec import EngineWarmupOptions, severity_of
from tests.unit.warmup.conftest import ARCHITECTURES


def make_config(**sections: dict[str, Any]) -> WarmupConfig:
    """A small step on the CPU."""
    base: dict[str, Any] = {
        "cluster": {"world_size": 8},
        "model": {"name": "llama-3.1-8b", **sections.pop("model", {})},
        "autotune": {"max_num_batched_tokens": 16, "max_num_seqs": 4, **sections.pop("autotune", {})},
    }
    return parse_config({**base, **sections})


def dims_of(architecture: str) -> ModelDims:
    """A tiny model."""
    return ModelDims.model_validate(ARCHITECTURES[architecture])


def test_the_names_in_the_configuration_are_the_warmups() -> None:
    """The schema's names, the defaults of `engine.required` and the deadlines are those of the code."""
    assert set(get_args(EngineWarmupName)) == {warmup.name for warmup in ENGINE_WARMUPS}
    assert {w.name for w in ENGINE_WARMUPS if w.severity == "required"} == set(EngineSection().required)
    options = engine_options(make_config())
    assert all(severity_of(warmup, options) == warmup.severity for warmup in ENGINE_WARMUPS)
    assert {name: s for name, s in DEFAULT_DEADLINES.items() if s != 600} == {"sm120_decode": 1800, "slot_mapping": 120}


@pytest.mark.parametrize(("layers", "window"), [(None, 64), ((0, 1, 2, 3), 64), ((1, 3, 5), None), ((30,), None)])
def test_a_stage_whose_layers_all_have_a_window_gets_it(layers: tuple[int, ...] | None, window: int | None) -> None:
    """The first of eight stages of four layers; with layers of both kinds the runner's see all."""
    dims = load_model("llama-3.1-8b").model_copy(update={"sliding_window": 64, "sliding_layers": layers})
    shard = outline_of(make_config(model={"pipeline_parallel_size": 8}), dims, 0, "cpu").dims
    assert (shard.sliding_window, shard.sliding_layers) == (window, None)


@pytest.mark.parametrize(("dense", "leading"), [(None, 0), ((1,), 1), ((1, 2, 3), 1), ((5,), 0)])
def test_dense_layers_of_a_stage_come_first(dense: tuple[int, ...] | None, leading: int) -> None:
    """The runner's two layers are of the kinds that the first stage of four layers has."""
    dims = load_model("qwen3-30b-a3b").model_copy(update={"num_hidden_layers": 32, "dense_layers": dense})
    shard = outline_of(make_config(model={"pipeline_parallel_size": 8}), dims, 0, "cpu").dims
    assert (shard.first_dense_layers, shard.dense_layers) == (leading, None)


def test_settings_reach_the_warmups() -> None:
    """Switches, widths, deadlines and severities are those of the configuration; tuning counts when explicit."""
    asked = make_config(
        engine={
            "sparse_mla": False,
            "required": ["sampler_features"],
            "deadlines": {"slot_mapping": 7},
            "slot_mapping_tokens": [3],
            "sparse_mla_mixed_tokens": 8,
            "sparse_mla_prefill_tokens": 32,
        },
        autotune={"enabled": True},
    )
    options = engine_options(asked)
    assert (options.engine, options.autotune) == (asked.engine, True)
    assert options.deadlines["slot_mapping"] == 7
    assert engine_options(make_config()).engine == EngineWarmupOptions().engine
    assert options.deadlines["sparse_mla"] == DEFAULT_DEADLINES["sparse_mla"]
    assert [w.name for w in ENGINE_WARMUPS if severity_of(w, options) == "required"] == ["sampler_features"]
    assert engine_options(make_config()).autotune is None


def test_a_tensor_parallel_rank_has_its_heads_and_its_part_of_the_width() -> None:
    """Of 32 query and 8 key heads a quarter each, of the feed-forward a quarter; the LM head is shared."""
    outline = outline_of(make_config(model={"tensor_parallel_size": 4}), load_model("llama-3.1-8b"), 1, "cuda")
    dims = outline.dims
    head = next(call for call in outline.calls if call.name == "lm_head")
    assert (dims.num_attention_heads, dims.num_key_value_heads, dims.intermediate_size) == (8, 2, 3584)
    assert (dims.vocab_size, head.param("n"), outline.dtype) == (128256, 128256 // 4, "bfloat16")
    assert (dims.num_hidden_layers, outline.kv_cache.num_layers) == (2, 2)


@pytest.mark.parametrize(("rank", "ends"), [(0, (True, False)), (3, (False, False)), (7, (False, True))])
def test_a_pipeline_stage_knows_its_ends(rank: int, ends: tuple[bool, bool]) -> None:
    """With four stages of two ranks the first embeds, the last has the head."""
    asked = make_config(model={"tensor_parallel_size": 2, "pipeline_parallel_size": 4})
    outline = outline_of(asked, load_model("llama-3.1-8b"), rank, "cpu")
    assert (outline.is_first_pp_rank, outline.is_last_pp_rank) == ends
    assert outline.dtype == "float32"


def test_a_stage_has_the_kinds_of_layers_that_are_its_own() -> None:
    """Leading dense layers are on the first stage alone, one beside an expert layer; experts are shared out, but every
    rank routes to all of them.
    """
    dims = load_model("deepseek-v3")
    asked = make_config(
        model={
            "name": "deepseek-v3",
            "tensor_parallel_size": 4,
            "pipeline_parallel_size": 2,
            "expert_parallel_size": 4,
        }
    )
    outlines = [outline_of(asked, dims, rank, "cuda") for rank in (0, 7)]
    first, last = (outline.dims for outline in outlines)
    calls = {call.name: dict(call.params) for call in outlines[0].calls}
    assert (first.first_dense_layers, last.first_dense_layers) == (1, 0)
    assert (calls["moe_gemm1"]["local_experts"], calls["router"]["n"]) == (dims.num_experts // 4, dims.num_experts)
    assert first.moe_intermediate_size == dims.moe_intermediate_size
    assert first.num_key_value_heads == first.num_attention_heads == dims.num_attention_heads // 4


def test_a_share_of_a_model_runs() -> None:
    """One of two ranks has half of the heads, of the width and of the experts, and half of the LM head; a request still
    gets whole logits, the other half stood in for.
    """
    model = {"tensor_parallel_size": 2, "expert_parallel_size": 2}
    outline = outline_of(make_config(model=model), dims_of("mla_moe"), 1, "cpu")
    runner = BuiltinEngine(outline).runner

    _, logits = runner.dummy_run(3, force_attention=True)

    assert logits is not None
    assert logits.shape == (3, 101)
    assert torch.equal(logits[:, :37], logits[:, 64:])
    assert bool(logits.isfinite().all())
    assert runner.expert_load.shape == (2, 4)
    assert runner.expert_load.sum() == 3 * 2


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_the_stand_in_answers_like_the_runner(architecture: str) -> None:
    """Everything that a gate may ask is the same before and after the runner is made."""
    asked = make_config(engine={"block_sizes": [4, 16], "capture_sizes": [1, 3], "max_model_len": 32})
    outline = outline_of(asked, dims_of(architecture), 0, "cpu")
    runner, stand_in = BuiltinEngine(outline).runner, OutlinedRunner(outline)

    for name in ("capabilities", "limits", "kv_cache_config", "vocab_size", "is_pooling_model", "is_last_pp_rank"):
        assert getattr(stand_in, name) == getattr(runner, name), name
    assert stand_in.graph_capture_sizes == runner.graph_capture_sizes == (1, 3)
    assert {b.get_name() for b in stand_in.attention_backends} == {b.get_name() for b in runner.attention_backends}
    assert runner.kv_cache_config.block_sizes == (4, 16)


def test_on_cuda_it_names_the_backends_that_the_runner_will_have() -> None:
    """The names are those of the FlashInfer backends; graphs are for models without experts."""
    assert attention_name("cuda", dims_of("dense")) == FlashInferPagedAttention.get_name(None)  # type: ignore[arg-type]
    assert attention_name("cuda", dims_of("mla")) == FlashInferLatentAttention.get_name(None)  # type: ignore[arg-type]
    assert Capability.GRAPH_CAPTURE in capabilities_on("cuda", dims_of("mla"))
    assert Capability.GRAPH_CAPTURE not in capabilities_on("cuda", dims_of("moe"))


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_the_bytes_that_are_foreseen_are_those_that_are_taken(architecture: str) -> None:
    """Weights and KV cache of the runner are within 3 % of the estimate; norms and the router are what is left."""
    outline = outline_of(make_config(model={}), dims_of(architecture), 0, "cpu")
    engine = BuiltinEngine(outline)
    taken = sum(t.numel() * t.element_size() for t in tensors_in(engine.runner.decoder, set()) if t.numel() > 1)
    taken += sum(t.numel() * t.element_size() for pair in engine.runner.kv_store.layers.values() for t in pair)
    assert weight_bytes(outline) == pytest.approx(taken, rel=0.08)


def tensors_in(thing: Any, seen: set[int]) -> list[torch.Tensor]:
    """Every tensor that an object of ours holds, but buffers of the step and rotary tables."""
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        return [thing] if thing.is_floating_point() else []
    if isinstance(thing, list | tuple):
        return [t for item in thing for t in tensors_in(item, seen)]
    if type(thing).__name__ in ("Rope", "ModelDims") or not hasattr(thing, "__dict__"):
        return []
    return [t for value in vars(thing).values() for t in tensors_in(value, seen)]
