"""vLLM's arguments in a config: one spelling, refusals by name, and what must not be shown."""

from __future__ import annotations

from typing import Any

import pytest

from ray_warmup.configs import ConfigError
from ray_warmup.configs.engine_arguments import hide, is_secret, secrets_of, without_secrets
from ray_warmup.configs.loader import load_request
from ray_warmup.configs.vllm_arguments import NOT_COVERED, OURS, VLLM_ARGUMENTS

one_spelling, refusals = VLLM_ARGUMENTS.one_spelling, VLLM_ARGUMENTS.refusals

TOKEN = "hf_" + "x" * 30


def test_short_options_and_dots_have_one_spelling() -> None:
    """What follows a dot is the engine's own and stays."""
    given = {"-tp": 2, "--compilation-config.cudagraph_mode": "NONE", "no-enable-prefix-caching": True, "-cc": {"a": 1}}
    assert one_spelling(given) == {
        "tensor_parallel_size": 2,
        "compilation_config.cudagraph_mode": "NONE",
        "no_enable_prefix_caching": True,
        "compilation_config": {"a": 1},
    }
    with pytest.raises(ValueError, match="tensor_parallel_size is given twice"):
        one_spelling({"tp": 1, "tensor-parallel-size": 2})


@pytest.mark.parametrize("name", sorted(NOT_COVERED))
def test_what_is_not_covered_is_named(name: str) -> None:
    """Each argument by its own name, unless its value leaves the feature off."""
    (refused,) = refusals({name: 2})
    assert refused.startswith(f"args.{name}: ")
    assert "not covered yet" in refused
    assert refusals({name: None}) == []
    assert refusals({name: False}) == []


def test_a_dotted_name_belongs_to_its_argument() -> None:
    """A member of a refused argument is refused, too."""
    assert refusals({"speculative_config.method": "ngram"}) != []
    assert refusals({"compilation_config.mode": 3}) == []
    assert {"load_format", "distributed_executor_backend", "host", "port"} <= OURS.keys()


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("hf_token", True),
        ("HF-TOKEN", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("engine.args.hf_token", True),
        ("tokenizer", False),
        ("max_num_batched_tokens", False),
        ("key_sha256", False),
    ],
)
def test_secret_names(name: str, secret: bool) -> None:
    """Whole words decide."""
    assert is_secret(name) is secret


def test_secrets_are_found_at_any_depth() -> None:
    """In members, lists and JSON texts; what is left is the rest."""
    arguments: dict[str, Any] = {
        "model": "m",
        "hf_token": TOKEN,
        "hf_overrides": f'{{"api_key": "{TOKEN}2", "a": 1}}',
        "extra": [{"password": TOKEN + "3", "b": 2}],
    }
    assert secrets_of(arguments) == {TOKEN, TOKEN + "2", TOKEN + "3"}
    assert TOKEN not in str(without_secrets(arguments))
    assert without_secrets(arguments) == {"model": "m", "hf_overrides": '{"a": 1}', "extra": [{"b": 2}]}
    assert hide(f"a {TOKEN}2 b {TOKEN}", secrets_of(arguments)) == "a (secret) b (secret)"


@pytest.mark.parametrize("where", ["engine.hf_token", "engine.args.hf_token.x"])
def test_an_error_shows_no_secret(where: str) -> None:
    """A token at a wrong place, and one in a value that is no YAML, are not repeated."""
    base = ["engine.kind=vllm", "engine.args.model=m", "cluster.world_size=1"]
    with pytest.raises(ConfigError) as unknown:
        load_request("cpu_two_nodes", [*base, f"engine.hf_token={TOKEN}"])
    with pytest.raises(ConfigError) as broken:
        load_request("cpu_two_nodes", [*base, f"{where.removesuffix('.x')}=[{TOKEN}"])
    assert TOKEN not in str(unknown.value) + str(broken.value)
