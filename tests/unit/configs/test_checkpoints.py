"""Fields of a config.json that change which kernels run: each is honoured, or refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.configs import ConfigError, WarmupConfig, load_config
from ray_warmup.configs.agreement import check_dtype, check_weights
from ray_warmup.configs.dimensions import with_dimensions
from ray_warmup.configs.model import MODELS_DIR, load_model, parse_model
from ray_warmup.configs.model_fields import FIELDS

QWEN: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "vocab_size": 1000,
}
LLAMA = {**QWEN, "architectures": ["LlamaForCausalLM"]}
MISTRAL = {**QWEN, "architectures": ["MistralForCausalLM"], "sliding_window": None}
EXPERTS = {
    **QWEN,
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
}
LATENT = {
    **QWEN,
    "architectures": ["DeepseekV2ForCausalLM"],
    "head_dim": None,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
}
FP8_TENSOR = {"num_bits": 8, "type": "float", "strategy": "tensor"}


def group(weights: dict[str, Any], inputs: dict[str, Any] | None) -> dict[str, Any]:
    """One group of a compressed-tensors section."""
    return {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}}


PER_TENSOR: dict[str, dict[str, Any]] = {
    "fp8": {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]},
    "compressed-tensors": {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "ignore": ["lm_head", "re:.*embed_tokens"],
        "config_groups": group(FP8_TENSOR, {**FP8_TENSOR, "dynamic": False}),
        "kv_cache_scheme": None,
    },
    "modelopt": {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]},
}
OTHERS: dict[str, dict[str, Any]] = {
    "fp8 blocks": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
    "fp8 blocks that cannot be read": {"quant_method": "fp8", "weight_block_size": "wide"},
    "fbgemm_fp8": {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True},
    "old awq": {"w_bit": 4, "q_group_size": 32, "zero_point": True},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True},
    "old gptq": {"bits": 4, "group_size": 32, "desc_act": True},
    "rows of compressed-tensors": {
        "quant_method": "compressed-tensors",
        "config_groups": group({**FP8_TENSOR, "strategy": "channel"}, {**FP8_TENSOR, "strategy": "token"}),
    },
    "integers of compressed-tensors": {
        "config_groups": group({"num_bits": 8, "type": "int", "strategy": "tensor"}, FP8_TENSOR),
    },
    "weights alone of compressed-tensors": {
        "quant_method": "compressed-tensors",
        "config_groups": group({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}, None),
    },
    "modelopt fp4": {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16},
    "modelopt_fp4": {"quant_method": "modelopt_fp4", "quant_algo": "NVFP4"},
    "modelopt blocks": {"quant_algo": "FP8_PB_WO"},
    "mxfp4": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "old bitsandbytes": {"load_in_8bit": True},
    "quark": {"quant_method": "quark"},
    "torchao": {"quant_method": "torchao", "quant_type": {"default": {}}},
    "nothing that is known": {"something": 1},
}


def directory(path: Path, data: dict[str, Any], **beside: Any) -> Path:
    """A checkpoint's directory: config.json, and other files by their stem."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(data))
    for stem, document in beside.items():
        (path / f"{stem}.json").write_text(json.dumps(document))
    return path


def asked(path: Path, *overrides: str) -> WarmupConfig:
    """A config for this checkpoint."""
    base = ["cluster.ranks_per_node=16", f"model.name={path}"]
    return load_config(None, [*base, *overrides])


@pytest.mark.parametrize("section", PER_TENSOR.values(), ids=PER_TENSOR)
def test_fp8_with_one_scale_per_tensor_is_what_fp8_tunes(section: dict[str, Any]) -> None:
    """In each producer's schema it is accepted with model.quantization fp8, and without it refused with the remedy."""
    dims = parse_model("m", {**QWEN, "quantization_config": section})
    check_weights(dims, "fp8")
    with pytest.raises(ConfigError, match=r"quantization_config: .*set model\.quantization=fp8"):
        check_weights(dims, "none")


@pytest.mark.parametrize("quantization", ["none", "fp8"])
@pytest.mark.parametrize("section", OTHERS.values(), ids=OTHERS)
def test_every_other_quantization_is_refused_by_name(section: dict[str, Any], quantization: str) -> None:
    """Whatever is asked: no op of the catalog is what an engine would call."""
    dims = parse_model("m", {**QWEN, "quantization_config": section})
    with pytest.raises(ConfigError, match="model m: quantization_config: ") as caught:
        check_weights(dims, quantization)
    assert str(section.get("quant_method", "")) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kv_cache_scheme": FP8_TENSOR}, "kv_cache_scheme"),
        ({"kv_cache_quant_algo": "FP8"}, "kv_cache_quant_algo 'FP8'"),
        ({"fmt": "e5m2"}, "e5m2"),
        ({"modules_to_not_convert": ["model.layers.0.mlp.down_proj"]}, "down_proj"),
        ({"ignored_layers": ["re:.*gate_proj"]}, "gate_proj"),
    ],
)
def test_what_makes_other_kernels_besides_is_refused(change: dict[str, Any], said: str) -> None:
    """A quantized cache, another float format, and layers that stay as they are."""
    dims = parse_model("m", {**QWEN, "quantization_config": {"quant_method": "fp8", **change}})
    with pytest.raises(ConfigError, match="does not know") as caught:
        check_weights(dims, "fp8")
    assert said in str(caught.value)


def test_quantized_experts_are_refused() -> None:
    """The catalog's experts are unquantized, so a checkpoint with others is not what would be warmed."""
    dims = parse_model("m", {**EXPERTS, "quantization_config": PER_TENSOR["fp8"]})
    with pytest.raises(ConfigError, match="experts are quantized"):
        check_weights(dims, "fp8")


@pytest.mark.parametrize("stem", ["hf_quant_config", "quantize_config", "quant_config"])
def test_a_file_beside_config_json_counts(tmp_path: Path, stem: str) -> None:
    """It is named; where config.json speaks for itself, that is the word."""
    nested = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "group_size": 16}}
    section = nested if stem == "hf_quant_config" else OTHERS["old gptq"]
    path = directory(tmp_path / "m", QWEN, **{stem: section})
    with pytest.raises(ConfigError, match=rf"{stem}\.json: "):
        with_dimensions(asked(path))
    own = directory(tmp_path / "own", {**QWEN, "quantization_config": PER_TENSOR["fp8"]}, **{stem: section})
    with_dimensions(asked(own, "model.quantization=fp8"))


@pytest.mark.parametrize("text", ["{", "[]", "null"])
def test_a_file_beside_it_that_cannot_be_read_is_no_word_for_unquantized(tmp_path: Path, text: str) -> None:
    """The checkpoint is refused, and the file is named."""
    path = directory(tmp_path / "m", QWEN)
    (path / "quant_config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"quant_config\.json"):
        load_model(path)


@pytest.mark.parametrize("kind", ["pipe", "directory", "broken link"])
def test_what_is_no_file_beside_it_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    """It may have meant a quantization; nothing is waited for."""
    place = directory(tmp_path / "m", QWEN) / "hf_quant_config.json"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "directory":
        place.mkdir()
    else:
        place.symlink_to("nothing")
    with pytest.raises(ConfigError, match=r"hf_quant_config\.json' cannot be read"):
        load_model(place.parent)


@pytest.mark.parametrize("section", [[], "fp8", 8])
def test_a_quantization_that_is_no_mapping_is_refused(section: Any) -> None:
    """Named with its value."""
    with pytest.raises(ConfigError, match="quantization_config is"):
        parse_model("m", {**QWEN, "quantization_config": section})


@pytest.mark.parametrize(
    ("data", "section", "sizes", "said"),
    [
        (QWEN, {"weight_block_size": [128, 128]}, "tensor_parallel_size=8", "num_attention_heads"),
        (QWEN, {"weight_block_size": [32, 128]}, "tensor_parallel_size=8", "32 inputs of num_attention_heads"),
        (EXPERTS, {"weight_block_size": [64, 64]}, "tensor_parallel_size=4", "32 columns of moe_intermediate_size=128"),
        (QWEN, {"quant_method": "gptq", "bits": 4, "group_size": 128}, "tensor_parallel_size=4", "64 inputs"),
    ],
)
def test_a_split_between_blocks_is_refused_beside_the_head_rule(
    tmp_path: Path, data: dict[str, Any], section: dict[str, Any], sizes: str, said: str
) -> None:
    """No engine loads a part of a block: the size, the field, the block and the checkpoint's word are said."""
    data = {**data, "num_key_value_heads": 8, "quantization_config": {"quant_method": "fp8", **section}}
    path = directory(tmp_path / "m", data)
    with pytest.raises(ConfigError, match=r"model\.tensor_parallel_size: .* must be a multiple of .*block") as caught:
        with_dimensions(asked(path, f"model.{sizes}"))
    assert said in str(caught.value), str(caught.value)


@pytest.mark.parametrize("field", ["torch_dtype", "dtype"])
def test_the_dtype_of_the_checkpoint_must_be_the_one_asked_for(field: str) -> None:
    """Either spelling; float32 on either side leaves the choice to the config."""
    dims = parse_model("m", {**QWEN, field: "torch.float16"})
    with pytest.raises(ConfigError, match=r"set model\.dtype=float16"):
        check_dtype(dims, "bfloat16")
    check_dtype(dims, "float16")
    check_dtype(dims, "float32")
    check_dtype(parse_model("m", {**QWEN, field: "float32"}), "bfloat16")
    check_dtype(parse_model("m", {**QWEN, field: "auto"}), "bfloat16")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"torch_dtype": "float8_e4m3fn"}, "torch_dtype is 'float8_e4m3fn'"),
        ({"torch_dtype": "float16", "dtype": "bfloat16"}, "must agree"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}, "rope_parameters.rope_theta is 1000000.0"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1}, "sliding_attention": {"rope_theta": 2}}}, "agree"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}, "mrope_section"),
        ({"rope_parameters": {"rope_type": "proportional"}}, "rope_type 'proportional'"),
        ({"rope_theta": True}, "rope_theta is True"),
        ({"rope_parameters": {"rope_theta": False}}, "rope_parameters.rope_theta is False"),
        ({"model_type": ["llama"]}, "model_type is ["),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"rope_scaling": "yarn"}, "rope_scaling is 'yarn'"),
        ({"partial_rotary_factor": 0.25}, "partial_rotary_factor is 0.25"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_chunk_size": 8192}, "attention_chunk_size is 8192"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ({"index_topk": 2048}, "index_topk is 2048"),
        ({"layer_types": ["chunked_attention"] * 4}, "'chunked_attention'"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"layer_types": ["sliding_attention"] * 4}, "sliding_window is not set"),
        ({"use_sliding_window": "yes"}, "use_sliding_window is 'yes'"),
        ({"use_mla": True}, "use_mla is True"),
        ({"num_experts": 4, "num_local_experts": 8}, "must agree"),
    ],
)
def test_a_field_that_makes_other_kernels_is_refused(change: dict[str, Any], said: str) -> None:
    """By its name and value, instead of being dropped."""
    with pytest.raises(ConfigError, match="model m: ") as caught:
        parse_model("m", {**LLAMA, **change})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 1_000_000, "rope_scaling": None, "torch_dtype": "bfloat16"},
        {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "dtype": "bfloat16"},
        {"rope_parameters": {"full_attention": {"rope_theta": 1e6, "rope_type": "default"}}},
        {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0}, "layer_types": ["full_attention"] * 4},
        {"rope_theta": 1e6, "sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 2},
    ],
)
def test_one_model_has_one_set_of_dimensions(spelling: dict[str, Any]) -> None:
    """Whichever version of a library wrote the file: what is hashed into the key is equal."""
    ours = parse_model("m", {**QWEN, "rope_theta": 1e6})
    assert parse_model("m", {**QWEN, **spelling}).model_dump() == ours.model_dump()
    assert ours.rope_theta == 1e6


def test_the_head_dim_of_latent_attention_is_its_parts() -> None:
    """Newer files call the rotary part head_dim; it is one model all the same."""
    assert parse_model("m", {**LATENT, "head_dim": 16}) == parse_model("m", LATENT)


@pytest.mark.parametrize(
    ("data", "window", "layers"),
    [
        (MISTRAL, None, None),
        ({**MISTRAL, "sliding_window": 4096}, 4096, None),
        ({name: value for name, value in MISTRAL.items() if name != "sliding_window"}, 4096, None),
        ({**LLAMA, "sliding_window": 512}, 512, None),
        ({**QWEN, "sliding_window": 4096}, None, None),
        ({**QWEN, "sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 0}, 4096, None),
        ({**QWEN, "sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 4}, 4096, None),
        ({**QWEN, "sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 3}, 4096, (3,)),
        (
            {**LLAMA, "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"] * 2},
            64,
            (0, 2),
        ),
    ],
)
def test_the_window_is_that_of_the_architecture(
    data: dict[str, Any], window: int | None, layers: tuple[int, ...] | None
) -> None:
    """Mistral's and Llama's counts as it stands, Qwen's only when switched on, layer by layer where they differ."""
    dims = parse_model("m", data)
    assert (dims.sliding_window, dims.sliding_layers) == (window, layers)


@pytest.mark.parametrize(
    ("data", "first", "others"),
    [
        (EXPERTS, 0, None),
        ({**EXPERTS, "decoder_sparse_step": 1, "mlp_only_layers": []}, 0, None),
        ({**EXPERTS, "mlp_only_layers": [0]}, 1, None),
        ({**EXPERTS, "mlp_only_layers": [2]}, 0, (2,)),
        ({**EXPERTS, "decoder_sparse_step": 2}, 1, (2,)),
        (LATENT, 1, None),
        ({**LATENT, "moe_layer_freq": 2}, 2, (3,)),
        ({**LATENT, "moe_layer_freq": [0, 1, 1, 1]}, 1, None),
    ],
)
def test_dense_layers_between_experts_are_read(
    data: dict[str, Any], first: int, others: tuple[int, ...] | None
) -> None:
    """In each architecture's spelling, to one value."""
    dims = parse_model("m", data)
    assert (dims.first_dense_layers, dims.dense_layers) == (first, others)


@pytest.mark.parametrize(
    "change",
    [
        {"decoder_sparse_step": 0},
        {"mlp_only_layers": "all"},
        {"moe_layer_freq": [1]},
        {"mlp_only_layers": [0, 1, 2, 3]},
    ],
)
def test_layers_that_cannot_be_counted_are_refused(change: dict[str, Any]) -> None:
    """A step of 0, a list that is none or of another length, experts that no layer has."""
    with pytest.raises(ConfigError, match="model m: "):
        parse_model("m", {**EXPERTS, **change})


@pytest.mark.parametrize("field", ["text_config", "llm_config", "language_config"])
def test_a_nested_part_of_a_known_architecture_is_read(field: str) -> None:
    """With the file's own dtype and quantization, and a note that the rest is not warmed."""
    outer = {"architectures": ["SomethingForConditionalGeneration"], "dtype": "float16", field: LATENT}
    dims = parse_model("m", outer)
    assert dims.model_dump() == parse_model("m", LATENT).model_dump()
    assert (dims.dtype, len(dims.notes)) == ("float16", 1)
    assert field in dims.notes[0]
    quantized = parse_model("m", {**outer, "quantization_config": OTHERS["awq"]})
    assert quantized.weights is not None


def test_a_nested_part_may_have_a_model_type_alone() -> None:
    """And an unknown one is named beside what is known."""
    part = {name: value for name, value in QWEN.items() if name != "architectures"}
    outer = {"architectures": ["Other"], "text_config": {**part, "model_type": "qwen3"}}
    assert parse_model("m", outer).architecture == "dense"
    with pytest.raises(ConfigError, match=r"known are .*; its text_config is 'gemma3_text', which is not known either"):
        parse_model("m", {**outer, "text_config": {**part, "model_type": "gemma3_text"}})
    with pytest.raises(ConfigError, match="a nested text_config of one of them would be read"):
        parse_model("m", {"architectures": ["Other"]})


def test_latent_attention_that_is_switched_off_is_grouped_query_attention() -> None:
    """With `use_mla: false` heads have their usual width; what contradicts it is refused by name."""
    off = {**LATENT, "use_mla": False, "kv_lora_rank": None, "num_key_value_heads": 8}
    dims = parse_model("m", {**off, "qk_nope_head_dim": 0, "qk_rope_head_dim": 0, "v_head_dim": 0})
    assert (dims.architecture, dims.head_dim, dims.first_dense_layers) == ("moe", 32, 1)
    with pytest.raises(ConfigError, match="use_mla: false"):
        parse_model("m", off)
    with pytest.raises(ConfigError, match="use_mla"):
        parse_model("m", {**LATENT, "kv_lora_rank": None})


def test_a_field_that_nobody_has_judged_is_a_note(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Where its name sounds like kernels and it holds anything; it is said once, to the process that asks."""
    dims = parse_model("m", {**QWEN, "attn_novelty": 7, "favourite_colour": "blue", "new_moe_switch": False})
    assert [note.split(",")[0] for note in dims.notes] == ["model m: attn_novelty is 7"]
    complete = with_dimensions(asked(directory(tmp_path / "m", {**QWEN, "attn_novelty": 7})))
    with_dimensions(complete)
    assert caplog.text.count("attn_novelty") == 1


def test_every_known_field_has_one_decision_and_a_reason() -> None:
    """Fields that are read somewhere are honoured; all have a reason for people."""
    assert all(rule.why for rule in FIELDS.values())
    read = {name for path in MODELS_DIR.glob("*.json") for name in json.loads(path.read_text())}
    assert {FIELDS[name].verdict for name in read} == {"honoured"}
