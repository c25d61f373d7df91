"""What a config resolves to is asked of the engine's own code, in a child that starts nothing and writes nowhere."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.configs.engine_schema import VllmSection
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.engines.artifacts import request_index
from ray_warmup.warmup.engines.artifacts.engine_store import recorded_facts
from ray_warmup.warmup.engines.artifacts.request_digest import device_here, digest_of
from ray_warmup.warmup.engines.identity.resolved import Resolved, node_differences
from ray_warmup.warmup.engines.launcher.recording import record
from ray_warmup.warmup.engines.node.resolution import find_here, resolve_here
from ray_warmup.warmup.engines.vllm.arguments import words
from ray_warmup.warmup.errors import EngineError, EngineRequestError
from ray_warmup.warmup.store.node_store import NodeStore
from tests.engines.fake_engine import environment

TOKEN = "hf_plantedtoken0123456789"


def section(**arguments: Any) -> VllmSection:
    """A request of the fake engine."""
    options = {name: arguments.pop(name) for name in ("usage", "lm_head") if name in arguments}
    return VllmSection(kind="vllm", args={"model": "/models/fake", **arguments}, start_deadline=60, **options)


def resolve(tmp_path: Path, asked: VllmSection, *, explain: bool = False, **variables: str) -> Resolved:
    """The fake engine's answer."""
    cache = CacheSection(root=str(tmp_path / "root"))
    return resolve_here(asked, cache, environment(tmp_path, **variables), deadline_s=60, explain=explain)


def model(directory: Path, headers: list[str] | None, **config: Any) -> str:
    """A model's directory: config.json, and a checkpoint of headers alone."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"num_layers": 2} | config))
    if headers is not None:
        header = json.dumps(
            {name: {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]} for name in headers}
        ).encode()
        (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return str(directory)


def test_a_start_records_under_the_identity_that_is_resolved(tmp_path: Path) -> None:
    """Equal keys; then the request is a hit, and another size is a miss in the engine's own words."""
    asked = section(max_num_seqs=3, hf_token=TOKEN)
    recorded = record(asked, CacheSection(root=str(tmp_path / "root")), environment(tmp_path))
    found = resolve(tmp_path, asked)
    other = resolve(tmp_path, section(max_num_seqs=8))

    assert found.key_sha256 == recorded.artifact.manifest.key.sha256
    assert find_here(found, CacheSection(root=str(tmp_path / "root"))).reason == ""
    miss = find_here(other, CacheSection(root=str(tmp_path / "root")))
    assert miss.reason == "max_num_seqs 8, recorded 3"
    facts = recorded_facts(NodeStore(recorded.store))
    assert facts.arguments == {"model": "/models/fake", "max_num_seqs": 3}
    assert "VLLM_USE_FAKE_KERNELS" in facts.compile_factors
    row = request_index.find(tmp_path / "root", digest_of(asked, "0.33.0", device_here()))
    assert row is not None
    assert row.key_sha256 == found.key_sha256
    written = [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert written == []


def test_arguments_that_enter_the_class_are_told(tmp_path: Path) -> None:
    """Found out by leaving each of them out; a secret is not shown; the user's caches are not touched."""
    asked = section(**{"max-num-seqs": 3, "seed": 7, "hf_token": TOKEN, "compilation_config": {"mode": 3}})
    found = resolve(tmp_path, asked, explain=True)

    assert found.class_arguments == (
        'model="/models/fake" (its configuration, not its path)',
        "max_num_seqs=3",
        'compilation_config={"mode": 3}',
    )
    assert found.other_arguments == ("seed=7", 'hf_token="(secret)"')
    assert not (tmp_path / "home").exists()
    assert not (tmp_path / "root").exists()


def test_sizes_default_by_who_starts_the_engine(tmp_path: Path) -> None:
    """The server's default is another one than that of the class."""
    sizes = [
        dict(resolve(tmp_path, section(usage=usage)).identity)["scheduler_config.max_num_batched_tokens"]
        for usage in ("serve", "llm")
    ]
    assert sizes == ["96", "128"]


@pytest.mark.parametrize(
    ("headers", "lm_head", "tied"),
    [
        (["model.embed_tokens.weight"], "read", True),
        (["model.embed_tokens.weight", "lm_head.weight"], "read", False),
        (None, "tied", True),
        (None, "own", False),
    ],
)
def test_the_checkpoints_headers_decide_on_tied_embeddings(
    tmp_path: Path, headers: list[str] | None, lm_head: str, tied: bool
) -> None:
    """An `lm_head` in the headers changes the identity, although random weights are loaded."""
    path = model(tmp_path / "model", headers, tie_word_embeddings=True)
    parts = dict(resolve(tmp_path, section(model=path, lm_head=lm_head)).identity)
    assert parts["model_config.word_embeddings_untied_by_checkpoint"] == str(not tied)


@pytest.mark.parametrize(
    ("config", "arguments", "complaint"),
    [
        ({"tie_word_embeddings": True}, {}, r"engine\.lm_head: read: .*set engine\.lm_head to tied or own"),
        ({"vision_config": {}}, {}, r"engine\.args\.model: not covered yet: multimodal models"),
        ({}, {"max_num_sequences": 3}, r"engine\.args: vLLM refuses them: unrecognized arguments: --max-num-sequences"),
        ({}, {"max_model_len": -1}, r"engine\.args: vLLM refuses them: ValueError: max_model_len -1"),
        ({}, {"model": "/missing/m"}, r"engine\.args\.model: /missing/m cannot be resolved on this node"),
    ],
)
def test_what_a_config_says_wrong_is_named(
    tmp_path: Path, config: dict[str, Any], arguments: dict[str, Any], complaint: str
) -> None:
    """Before anything starts, by setting and rule."""
    path = model(tmp_path / "model", None, **config)
    with pytest.raises(EngineRequestError, match=complaint):
        resolve(tmp_path, section(**{"model": path} | arguments))


def test_a_name_that_only_the_hub_knows_is_no_fault_of_the_config(tmp_path: Path) -> None:
    """Without network the node is at fault, not the request."""
    with pytest.raises(EngineError, match="the hub cannot be asked") as error:
        resolve(tmp_path, section(model="missing/m"), HF_HUB_OFFLINE="1")
    assert not isinstance(error.value, EngineRequestError)


def test_real_weights_leave_the_decision_to_the_engine(tmp_path: Path) -> None:
    """vLLM reads the checkpoint itself then, so nothing is refused or decided here."""
    path = model(tmp_path / "model", None, tie_word_embeddings=True)
    real = VllmSection(kind="vllm", args={"model": path}, weights="real", start_deadline=60)
    assert real.load_format == "auto"
    parts = dict(resolve(tmp_path, real).identity)
    assert parts["model_config.word_embeddings_untied_by_checkpoint"] == "False"


def test_a_version_that_was_not_read_and_a_hidden_plugin_are_named(tmp_path: Path) -> None:
    """Before anything starts; neither is a fault of the config."""
    with pytest.raises(EngineError, match=r"vLLM 0\.99\.0 is not known") as error:
        resolve(tmp_path, section(), FAKE_VLLM_VERSION="0.99.0")
    assert not isinstance(error.value, EngineRequestError)
    with pytest.raises(EngineError, match="VLLM_PLUGINS=other hides ray-warmup's plugin"):
        resolve(tmp_path, section(), VLLM_PLUGINS="other")


def test_a_node_whose_model_differs_is_named() -> None:
    """The file, the node and the parts that differ; equal answers say nothing."""

    def answer(digest: str, dtype: str = "bf16") -> Resolved:
        parts = (("model_config.dtype", dtype),)
        digests = (("config.json", digest), ("resolved configuration", dtype))
        return Resolved("0.33.0", parts, {}, digests)

    assert node_differences({"node a": answer("1"), "node b": answer("1")}) == ()
    one, other = node_differences({"node a": answer("1"), "node b": answer("1"), "node c": answer("2", "fp16")})
    assert one == "config.json differs on node c (2) from the other nodes (1)"
    assert other == "resolved configuration differs on node c (fp16) from the other nodes (bf16): model_config.dtype"


def test_values_are_written_as_the_command_line_takes_them() -> None:
    """Truth values, lists, nested values, null and dotted names."""
    line = words(
        {
            "enforce_eager": True,
            "enable_prefix_caching": False,
            "cudagraph_capture_sizes": [1, 2],
            "hf_overrides": {"a": [1, True]},
            "revision": None,
            "compilation_config.pass_config.x": True,
            "max_model_len": "4k",
        }
    )
    assert line == [
        "--enforce-eager",
        "--no-enable-prefix-caching",
        "--cudagraph-capture-sizes",
        "1",
        "2",
        "--hf-overrides",
        '{"a": [1, true]}',
        "--compilation-config.pass_config.x",
        "true",
        "--max-model-len=4k",
    ]
