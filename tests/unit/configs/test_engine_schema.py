"""A config that names a real engine: arguments as on its command line, what is the run's own is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_warmup.configs import ConfigError, WarmupConfig, load_config
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.configs.loader import RECIPES_DIR, load_request
from ray_warmup.configs.vllm_arguments import OURS


def written(tmp_path: Path, **sections: Any) -> Path:
    """A config file with one rank and a vLLM unless told otherwise."""
    document = {"cluster": {"world_size": 1}, "engine": {"kind": "vllm", "args": {"model": "m"}}} | sections
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in document.items() if value is not None}))
    return path


def test_off_needs_no_quotes(tmp_path: Path) -> None:
    """YAML reads the bare word as false."""
    request = load_request(written(tmp_path), ["engine.proof=off", "engine.tuning=off"])
    assert isinstance(request, EngineRunConfig)
    assert (request.engine.proof, request.engine.tuning) == ("off", "off")


def test_one_argument_has_one_spelling(tmp_path: Path) -> None:
    """Dashes, underscores and the two dashes in front are the same argument; nested values stay as they are."""
    args = {"model": "m", "--max-num-seqs": 8, "hf-overrides": {"a": [1, True]}, "enforce_eager": True}
    request = load_request(written(tmp_path, engine={"kind": "vllm", "args": args}))

    assert isinstance(request, EngineRunConfig)
    assert request.engine.args == {
        "model": "m",
        "max_num_seqs": 8,
        "hf_overrides": {"a": [1, True]},
        "enforce_eager": True,
    }
    both = written(tmp_path, engine={"kind": "vllm", "args": {"model": "m", "max-num-seqs": 1, "max_num_seqs": 2}})
    with pytest.raises(ConfigError, match="max_num_seqs is given twice"):
        load_request(both)


@pytest.mark.parametrize("name", sorted(OURS))
def test_what_the_run_sets_itself_is_refused(tmp_path: Path, name: str) -> None:
    """Each argument of ours is named with the reason."""
    with pytest.raises(ConfigError, match=rf"args\.{name}: .*leave it out"):
        load_request(written(tmp_path, engine={"kind": "vllm", "args": {"model": "m", name: "x"}}))


@pytest.mark.parametrize("section", ["model", "autotune", "guard"])
def test_sections_of_the_built_in_engine_are_refused(tmp_path: Path, section: str) -> None:
    """Beside another engine they would say nothing, so they are an error with the way out."""
    with pytest.raises(ConfigError, match=rf"{section}: belongs to the built-in engine.*engine\.args"):
        load_request(written(tmp_path, **{section: {}}))


@pytest.mark.parametrize(
    ("engine", "complaint"),
    [
        ({"kind": "tgi", "args": {"model": "m"}}, r"engine\.kind: 'tgi': must be one of builtin, vllm"),
        ({"kind": "vllm", "args": {}}, r"args\.model: missing"),
        ({"kind": "vllm", "args": {"model": "m", "tensor_parallel_size": 0}}, r"tensor_parallel_size: 0: must be"),
        ({"kind": "vllm", "args": {"model": "m", "tensor_parallel_size": True}}, r"tensor_parallel_size: True: must"),
        ({"kind": "vllm", "args": {"model": "m", "enable_lora": True}}, r"args\.enable_lora: LoRA is not covered yet"),
        (
            {"kind": "vllm", "args": {"model": "m", "data-parallel-size": 2}},
            r"data_parallel_size: data parallel replicas",
        ),
        ({"kind": "vllm", "args": {"model": "m", "api-key": "k"}}, r"args\.api_key: belongs to the HTTP server"),
        ({"kind": "vllm", "args": {"model": "m"}, "num_layers": 2}, "num_layers: 2: unknown field"),
        ({"kind": "vllm", "args": {"model": "m", "tensor-parallel-size": 2}}, "2 ranks of a replica.*divide the 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, engine: dict[str, Any], complaint: str) -> None:
    """Field, value and rule, before anything is started."""
    with pytest.raises(ConfigError, match=complaint):
        load_request(written(tmp_path, engine=engine))


def test_secrets_are_shown_nowhere(tmp_path: Path) -> None:
    """What reports and keys are made of holds no token."""
    args = {"model": "m", "hf_token": "hf_x", "max_num_seqs": 8, "max_num_batched_tokens": 96, "tokenizer": "t"}
    request = load_request(written(tmp_path, engine={"kind": "vllm", "args": args}))

    assert isinstance(request, EngineRunConfig)
    assert request.engine.args["hf_token"] == "hf_x"
    shown = {"model": "m", "max_num_seqs": 8, "max_num_batched_tokens": 96, "tokenizer": "t"}
    assert request.engine.shown_args == shown


def test_every_recipe_still_reads_as_the_built_in_engines() -> None:
    """`engine.kind` defaults to the built-in one."""
    recipes = [path for path in sorted(RECIPES_DIR.glob("*.yaml")) if not path.stem.startswith(("vllm_", "sglang_"))]
    assert recipes
    for recipe in recipes:
        request = load_request(recipe)
        assert isinstance(request, WarmupConfig)
        assert request.engine.kind == "builtin"


def test_questions_of_the_built_in_engine_refuse_another(tmp_path: Path) -> None:
    """`load_config`, which commands about tables use, says that a real engine needs none of them."""
    with pytest.raises(ConfigError, match=r"engine\.kind: vllm: .*about the built-in engine alone"):
        load_config(written(tmp_path))


def test_a_replica_over_several_nodes_is_refused(tmp_path: Path) -> None:
    """What is not covered is said before anything starts."""
    cluster = {"num_nodes": 2, "ranks_per_node": 1}
    engine = {"kind": "vllm", "args": {"model": "m", "tensor_parallel_size": 2}}
    with pytest.raises(ConfigError, match="a replica of 2 ranks over nodes of 1 ranks is not covered yet"):
        load_request(written(tmp_path, cluster=cluster, engine=engine))
