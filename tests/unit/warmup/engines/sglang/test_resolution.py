"""What a request resolves to by SGLang's own code, here that of the fake one: identity, what is not covered, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.configs.engine_schema import SglangSection
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.engines.identity.resolved import Resolved
from ray_warmup.warmup.engines.launcher.recording import record
from ray_warmup.warmup.engines.node.resolution import find_here, resolve_here
from ray_warmup.warmup.engines.sglang.arguments import words
from ray_warmup.warmup.engines.sglang.factors import binding_settings, binding_variables
from ray_warmup.warmup.errors import EngineError, EngineRequestError
from tests.engines.fake_engine import environment

TOKEN = "hf_" + "x" * 30


def resolve(tmp_path: Path, explain: bool = False, environ: dict[str, str] | None = None, **args: Any) -> Resolved:
    """Resolve a request on this node."""
    section = SglangSection.model_validate({"kind": "sglang", "args": {"model": "/models/fake", **args}})
    cache = CacheSection(root=str(tmp_path / "root"))
    variables = environment(tmp_path, "sglang", **(environ or {}))
    return resolve_here(section, cache, variables, deadline_s=60, explain=explain)


def test_a_request_is_found_as_its_start_was_recorded(tmp_path: Path) -> None:
    """The front end's resolution and a scheduler's give one identity, which differs in no seed, path or token."""
    section = SglangSection.model_validate({"kind": "sglang", "args": {"model": "/models/fake"}, "start_deadline": 60})
    cache = CacheSection(root=str(tmp_path / "root"))
    recorded = record(section, cache, environment(tmp_path, "sglang"))

    resolved = resolve(tmp_path)
    elsewhere = resolve(tmp_path, tokenizer_path="/t", random_seed=7, hf_token=TOKEN)
    other = resolve(tmp_path, max_running_requests=4)

    assert resolved.key_sha256 == elsewhere.key_sha256 == recorded.artifact.manifest.key.sha256
    assert find_here(resolved, cache).store is not None
    assert find_here(other, cache).reason == "server_args.max_running_requests 4, recorded 8"


def test_the_arguments_that_enter_the_class_are_told(tmp_path: Path) -> None:
    """By resolving without each; a token is named and not shown."""
    answer = resolve(tmp_path, explain=True, max_running_requests=4, random_seed=3, chunked_prefill_size=32)
    assert answer.class_arguments == (
        'model_path="/models/fake" (its configuration, not its path)',
        "max_running_requests=4",
    )
    assert answer.other_arguments == ("random_seed=3", "chunked_prefill_size=32")
    assert TOKEN not in json.dumps(resolve(tmp_path, hf_token=TOKEN).settings)


def test_what_no_recording_covers_is_an_error_of_the_request(tmp_path: Path) -> None:
    """Also where only the model's own configuration says it."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"vision_config": {"a": 1}}))
    with pytest.raises(EngineRequestError, match=r"engine\.args\.model_path: not covered yet: multimodal models"):
        resolve_model(tmp_path, model)


def resolve_model(tmp_path: Path, model: Path) -> Resolved:
    """Resolve a model of a directory."""
    section = SglangSection.model_validate({"kind": "sglang", "args": {"model": str(model)}})
    cache = CacheSection(root=str(tmp_path / "root"))
    return resolve_here(section, cache, environment(tmp_path, "sglang"), deadline_s=60)


@pytest.mark.parametrize(
    ("args", "kind", "complaint"),
    [
        ({"no_such_option": 1}, EngineRequestError, "engine.args: SGLang refuses them: unrecognized arguments"),
        ({"context_length": "long"}, EngineRequestError, "SGLang refuses them: argument --context-length: invalid int"),
    ],
)
def test_what_sglang_refuses_is_named(tmp_path: Path, args: dict[str, Any], kind: type, complaint: str) -> None:
    """In the words of its own command line."""
    with pytest.raises(kind, match=complaint):
        resolve(tmp_path, **args)


def test_a_hidden_plugin_and_an_unknown_model_are_named(tmp_path: Path) -> None:
    """Before anything is started, with the remedy."""
    with pytest.raises(EngineError, match="set SGLANG_PLUGINS=other,ray_warmup"):
        resolve(tmp_path, environ={"SGLANG_PLUGINS": "other"})
    with pytest.raises(EngineRequestError, match=r"engine\.args\.model_path: /missing/m cannot be resolved"):
        resolve_model(tmp_path, Path("/missing/m"))


def test_words_are_those_of_its_command_line() -> None:
    """Truth values have no negative form; lists and nested values are as its parser takes them."""
    given = {"disable_radix_cache": True, "enable_metrics": False, "revision": None, "cuda_graph_bs": [1, 2]}
    assert words(given) == ["--disable-radix-cache", "--cuda-graph-bs", "1", "2"]
    assert words({"json_model_override_args": {"a": 1}, "tp_size": 2}) == [
        "--json-model-override-args",
        '{"a": 1}',
        "--tp-size=2",
    ]


def test_what_changes_no_kernel_does_not_bind() -> None:
    """Seeds, paths and labels may differ; a setting or variable that nobody has listed binds."""
    assert binding_settings({"random_seed": 1, "model_path": "m", "dtype": "auto"}) == {"dtype": "auto"}
    given = {"SGLANG_CACHE_DIR": "/a", "SGLANG_RUN_ID": "b", "SGLANG_NEW": "1", "SGLANG_EMPTY": "", "HOME": "/h"}
    assert binding_variables(given) == {"SGLANG_NEW": "1"}
