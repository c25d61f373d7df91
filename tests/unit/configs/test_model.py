"""Model dimensions: presets, Hugging Face fields, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.configs.errors import ConfigError
from ray_warmup.configs.model import check_parallel, load_model, parse_model, presets

DENSE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}
MOE = {**DENSE, "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 8, "num_experts_per_tok": 2}
LATENT = {
    **DENSE,
    "architectures": ["DeepseekV3ForCausalLM"],
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}


@pytest.mark.parametrize("name", presets())
def test_presets_load_and_split(name: str) -> None:
    """Every preset loads under its own name and can be split over eight GPUs."""
    dims = load_model(name)
    assert dims.name == name
    check_parallel(dims, 8, 1, 8 if dims.is_moe else 1)


def test_the_four_shapes_of_70b_at_tp8_come_from_these_dimensions() -> None:
    """The 70B preset has the public dimensions that the measured GEMM shapes follow from."""
    dims = load_model("llama-3.1-70b")
    assert (dims.hidden_size, dims.intermediate_size, dims.num_attention_heads) == (8192, 28672, 64)
    assert (dims.num_key_value_heads, dims.head_dim, dims.vocab_size) == (8, 128, 128256)


def test_hugging_face_names_are_understood() -> None:
    """DeepSeek's field names become ours, and the preset is a latent mixture of experts."""
    dims = load_model("deepseek-v3")
    assert (dims.architecture, dims.num_experts, dims.num_shared_experts) == ("mla_moe", 256, 1)
    assert (dims.first_dense_layers, dims.head_dim) == (3, 192)


def test_a_directory_with_a_config_json_is_a_model(tmp_path: Path) -> None:
    """A checkpoint directory is named after itself, and head_dim and kv heads are derived."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**DENSE, "num_key_value_heads": None}))
    dims = load_model(folder)
    assert (dims.name, dims.head_dim, dims.num_key_value_heads) == ("tiny", 8, 8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": ["BertModel"]}, ["architectures", "BertModel", "LlamaForCausalLM"]),
        ({"architectures": None}, ["architectures", "None"]),
        ({"hidden_size": None}, ["hidden_size", "missing"]),
        ({"vocab_size": 0}, ["vocab_size", "0", "greater than 0"]),
        ({"intermediate_size": True}, ["intermediate_size", "True", "valid integer"]),
        ({"num_hidden_layers": "2"}, ["num_hidden_layers", "'2'", "valid integer"]),
        ({"vocab_size": 10**30}, ["vocab_size", "less than or equal to 16777216"]),
        ({"rope_theta": float("inf")}, ["rope_theta", "inf", "finite number"]),
        ({"architectures": ["x" * 9000]}, ["architectures", "xxx..."]),
        ({"intermediate_size": "wide"}, ["intermediate_size", "wide"]),
        ({"num_key_value_heads": 3}, ["num_attention_heads=8", "multiple", "num_key_value_heads=3"]),
        ({"num_attention_heads": 7, "num_key_value_heads": 7}, ["head_dim", "hidden_size=64", "num_attention_heads=7"]),
        ({"head_dim": 9}, ["head_dim=9", "even"]),
        ({"num_experts": 4}, ["num_experts", "4", "dense"]),
        ({"kv_lora_rank": 8}, ["kv_lora_rank", "8", "no latent attention"]),
    ],
)
def test_a_wrong_dense_model_names_field_value_and_rule(change: dict[str, Any], said: list[str]) -> None:
    """Unknown architecture, missing, impossible and contradictory fields are refused by name."""
    with pytest.raises(ConfigError) as caught:
        parse_model("bad", {**DENSE, **change})
    assert all(text in str(caught.value) for text in ["bad", *said]), str(caught.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({**MOE, "num_experts": None}, "num_experts is missing"),
        ({**MOE, "num_experts_per_tok": 9}, "num_experts_per_tok=9 must be at most num_experts=8"),
        ({**MOE, "num_experts_per_tok": None}, "num_experts_per_tok is 0"),
        ({**MOE, "moe_intermediate_size": 0}, "moe_intermediate_size is 0"),
        ({**LATENT, "v_head_dim": None}, "v_head_dim is missing"),
        ({**LATENT, "first_k_dense_replace": 3}, "first_dense_layers=3 must be at most num_hidden_layers=2"),
    ],
)
def test_a_wrong_expert_or_latent_model_is_refused(data: dict[str, Any], said: str) -> None:
    """Expert and latent dimensions must be there and fit each other."""
    with pytest.raises(ConfigError, match=said):
        parse_model("bad", data)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": 1, "a": 2}', "\udcff", '{"a": ' + "9" * 5000 + "}", " " * (1 << 20) + "{}"]
)
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, text: str) -> None:
    """Nesting, repeated names, other bytes than UTF-8, endless numbers, a huge file: cannot be read as JSON."""
    (tmp_path / "m.json").write_text(text, errors="surrogateescape")
    with pytest.raises(ConfigError, match="cannot be read as JSON") as caught:
        load_model(tmp_path / "m.json")
    assert len(str(caught.value)) < 400


def test_a_latent_model_of_other_types_names_the_field(tmp_path: Path) -> None:
    """A list where the derived head dimension needs a number is refused under the field's own name."""
    with pytest.raises(ConfigError, match=r"qk_nope_head_dim is \[1\]"):
        parse_model("bad", {**LATENT, "head_dim": None, "qk_nope_head_dim": [1]})


@pytest.mark.parametrize(
    "source", ["no-such-preset", "/no/such/config.json", "a\x00b", "~nobody-here/m", "x" * 5000, "\ud800"]
)
def test_an_unknown_model_lists_the_presets(source: str) -> None:
    """A name that is neither preset nor file says what there is."""
    with pytest.raises(ConfigError, match=r"qwen3-0\.6b"):
        load_model(source)


def test_a_damaged_config_json_is_refused(tmp_path: Path) -> None:
    """Broken JSON and JSON that is no object name the file."""
    path = tmp_path / "config.json"
    for text in ("{", "[1]"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"config\.json"):
            load_model(path)


@pytest.mark.parametrize(
    ("name", "sizes", "said"),
    [
        ("llama-3.1-8b", (0, 1, 1), "tensor_parallel_size: 0"),
        ("llama-3.1-8b", (3, 1, 1), "tensor_parallel_size: 3; must divide num_attention_heads=32"),
        ("llama-3.1-8b", (1, 33, 1), "pipeline_parallel_size: 33; must be at most num_hidden_layers=32"),
        ("llama-3.1-8b", (2, 1, 2), "expert_parallel_size: 2; must be 1 for a dense model"),
        ("qwen3-30b-a3b", (2, 1, 3), "expert_parallel_size: 3; must divide num_experts=128"),
        ("qwen3-30b-a3b", (32, 1, 1), "tensor_parallel_size: 32"),
        ("deepseek-v3", (8, 1, 8), "tensor_parallel_size: 8; must divide num_shared_experts=1 times moe_inter.*=100"),
    ],
)
def test_parallel_sizes_that_do_not_divide_are_refused(name: str, sizes: tuple[int, int, int], said: str) -> None:
    """Each rule names the size asked for, the field and its value."""
    dims = load_model(name)
    if sizes in ((32, 1, 1), (8, 1, 8)):
        dims = dims.model_copy(update={"moe_intermediate_size": 100})
    with pytest.raises(ConfigError, match=said):
        check_parallel(dims, *sizes)


def test_key_value_heads_may_be_replicated() -> None:
    """Four key-value heads over eight ranks are copied, as engines do."""
    check_parallel(load_model("qwen3-30b-a3b"), 8, 1, 1)
