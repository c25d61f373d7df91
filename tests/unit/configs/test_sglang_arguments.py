"""SGLang's arguments in a config: one spelling, and what is the run's own or not covered refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ray_warmup.configs import ConfigError
from ray_warmup.configs.engine_schema import EngineRunConfig, SglangSection
from ray_warmup.configs.loader import load_request
from ray_warmup.configs.sglang_arguments import NOT_COVERED, OURS, SERVERS, SGLANG_ARGUMENTS


def section(**args: Any) -> SglangSection:
    """A section with these arguments."""
    return SglangSection.model_validate({"kind": "sglang", "args": {"model": "m", **args}})


def test_other_names_of_the_command_line_are_one_argument() -> None:
    """As SGLang's own parser takes them; the model may be named either way."""
    one = section(**{"--tensor-parallel-size": 2, "ep": 2, "chunked-prefill-size": 64})
    assert one.args == {"model_path": "m", "tp_size": 2, "ep_size": 2, "chunked_prefill_size": 64}
    assert (one.model, one.ranks_per_replica, one.workers) == ("m", 2, "own")
    with pytest.raises(ValueError, match="model_path is given twice"):
        section(model_path="n")


@pytest.mark.parametrize("name", sorted({*OURS, *SERVERS, *NOT_COVERED}))
def test_what_is_refused_is_named(name: str) -> None:
    """Each with the reason; a value that leaves a feature off is none."""
    (refused,) = SGLANG_ARGUMENTS.refusals({name: 2})
    assert refused.startswith(f"args.{name}: ")
    if name in NOT_COVERED:
        assert "not covered yet" in refused
        assert SGLANG_ARGUMENTS.refusals({name: False}) == []
    if name.endswith("_size"):
        assert SGLANG_ARGUMENTS.refusals({name: 1}) == []


@pytest.mark.parametrize(
    ("engine", "complaint"),
    [
        ({"kind": "sglang", "args": {}}, r"engine: args\.model_path: missing"),
        ({"kind": "sglang", "args": {"model": "m", "tp": 0}}, r"args\.tp_size: 0: must be"),
        ({"kind": "sglang", "args": {"model": "m", "pp": 2}}, r"args\.pp_size: pipeline parallelism is not covered"),
        ({"kind": "sglang", "args": {"model": "m", "port": 1}}, r"args\.port: no server is started; leave it out"),
        ({"kind": "sglang", "args": {"model": "m"}, "usage": "serve"}, r"engine\.usage: 'serve': unknown field"),
        ({"kind": "sglang", "args": {"model": "m", "tp": 2}}, "2 ranks of a replica.*divide the 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Any, engine: dict[str, Any], complaint: str) -> None:
    """Field, value and rule, before anything is started."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"cluster": {"world_size": 1}, "engine": engine}))
    with pytest.raises(ConfigError, match=complaint):
        load_request(path)


def test_the_same_config_serves_either_engine(tmp_path: Any) -> None:
    """Only `engine.kind` and `args` differ; an override spells an argument as it likes."""
    path = tmp_path / "config.yaml"
    document = {"cluster": {"world_size": 1}, "engine": {"kind": "sglang", "args": {"model": "m", "tp": 1}}}
    path.write_text(yaml.safe_dump(document))
    request = load_request(path, ["engine.args.tensor-parallel-size=1", "cluster.world_size=1"])
    assert isinstance(request, EngineRunConfig)
    assert request.engine.args == {"model_path": "m", "tp_size": 1}
