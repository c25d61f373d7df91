"""The readers under test: good samples, how their bytes are damaged, what may refuse them, what an accepted one means.

A reader raises one of its named refusals, or takes the bytes; then it checks that what it took is whole (writing it
down and reading it again gives the same). Anything else is a finding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from ray_warmup.configs import ConfigError, load_config, parse_config
from ray_warmup.configs.loader import RECIPES_DIR
from ray_warmup.configs.model import MODELS_DIR, load_model
from ray_warmup.warmup.artifact.archive import MAGIC, unpack
from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.artifact.file_key import parse_file_key
from ray_warmup.warmup.artifact.fingerprint import METADATA_FIELDS
from ray_warmup.warmup.artifact.manifest import parse_manifest
from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.caches import compute_cache, triton_cache, tuning_kernels
from ray_warmup.warmup.errors import ArtifactError, MessageError, StoreError
from ray_warmup.warmup.messages.answers import Tuned
from ray_warmup.warmup.messages.questions import Load
from ray_warmup.warmup.messages.wire import QUESTIONS, from_bytes, to_bytes
from ray_warmup.warmup.store.node_store import NodeStore, StorePath
from tests.artifacts import KEY_SHA256, make_artifact, make_result
from tests.fuzz.mutations import damage, reshape
from tests.fuzz.store_reader import read_store, store_case, whole_store

JSON_TOKENS = (
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"NaN", b"-Infinity", b"1e999", b"-1", b"null", b'"\\ud800"',
    b"\\u0000", b"\x00", b"\xff", b"\xef\xbb\xbf", b"9" * 5000, b'{"a":', b"[[[[[[[[[[[[[[[[[[[[", b"'", b"(",
    b"<K.n: 3>", b"torch.float8",
)  # fmt: skip
YAML_TOKENS = (
    b"&a ", b"*a", b"<<: *a", b"!!python/object/apply:os.system [id]", b"!!int ", b"!!float x", b"!!timestamp x",
    b"!!bool x", b"!!binary x", b"!!set {a}", b"!!omap [a]", b"!!pairs [a]", b"!!map [a]", b"!!null x", b"!x ", b"? ",
    b"- ", b": ", b"\n", b"\n  ", b"{", b"}", b"[", b"]", b"0600", b"444", b"0o600", b"1:30:00", b".nan", b"-.inf",
    b"1e999", b"2001-02-30", b"2001-12-14t21:59:43.10-05:00", b"=", b"~", b"null", b"|\n", b">\n",
    b"%YAML 9.9\n---\n", b"---\n", b"...\n", b"\t", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b'"\\ud800"',
    b'"\\U00110000"', b"'", b'"', b"#", b"@", b"`", b"0x" + b"f" * 4000, b"9" * 5000, b"\xc2\x85", b"\xe2\x80\xa8",
)  # fmt: skip
TEXT_TOKENS = (
    b"\x00", b"~", b"~nobody/", b"../", b"/", b"//", b"a" * 300, b"/a" * 3000, b"\xff", b".", b"=", b"[", b"]", b"{",
    b"}", b",", b"cache.root=", b"cache.file_mode=", b"cluster.node_labels.", b"engine.deadlines.", b"*a", b"&a [*a]",
    b"444", b"0640",
)  # fmt: skip
BASE = ["cluster.world_size=2", "model.name=qwen3-0.6b"]
MAX_MESSAGE = 8_000


@dataclass(frozen=True)
class Reader:
    """One reader of bytes that others may have written."""

    name: str
    samples: tuple[bytes, ...]
    read: Callable[[bytes, Path], None]
    """Takes the bytes whole or raises; the directory is its own to write in."""
    refusals: tuple[type[Exception], ...]
    make: Callable[[Random, tuple[bytes, ...]], bytes]
    """Damaged bytes from the samples."""


def _damaged(tokens: tuple[bytes, ...]) -> Callable[[Random, tuple[bytes, ...]], bytes]:
    return lambda rng, samples: damage(rng.choice(samples), rng, tokens)


def _json(rng: Random, samples: tuple[bytes, ...]) -> bytes:
    """Half of the time a document that is JSON and wrong, else bytes that may not be JSON."""
    sample = rng.choice(samples)
    if rng.random() < 0.5:
        return damage(sample, rng, JSON_TOKENS)
    return json.dumps(reshape(json.loads(sample), rng), ensure_ascii=True).encode()


def _yaml(rng: Random, samples: tuple[bytes, ...]) -> bytes:
    sample = rng.choice(samples)
    if rng.random() < 0.6:
        return damage(sample, rng, YAML_TOKENS)
    text = yaml.safe_dump(reshape(yaml.safe_load(sample), rng)).encode("utf-8", "surrogatepass")
    return damage(text, rng, YAML_TOKENS) if rng.random() < 0.3 else text


def _archive(rng: Random, samples: tuple[bytes, ...]) -> bytes:
    """Damaged as it lies there, damaged with a right digest, or with a manifest that is JSON and wrong."""
    kind = rng.randrange(3)
    if kind == 0:
        return damage(rng.choice(samples), rng, JSON_TOKENS)
    if kind == 1:
        return _sealed(damage(rng.choice(samples)[:-32], rng, JSON_TOKENS))
    artifact = _whole_artifact()
    place = {"flashinfer_version": "0.7.2", "arch": "90a", "key_sha256": KEY_SHA256}
    place = reshape(place, rng) if rng.random() < 0.3 else place
    manifest = reshape(artifact.manifest.to_json(), rng)
    blobs = [bytes(artifact.blobs[sha]) for sha in sorted(artifact.blobs)]
    return _members(json.dumps(place).encode(), json.dumps(manifest).encode(), *blobs)


def _sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def _members(*parts: bytes) -> bytes:
    return _sealed(MAGIC + b"".join(len(part).to_bytes(8, "big") + part for part in parts))


def _whole_artifact() -> Any:
    """An artifact with every kind of compiled content."""
    group = json.dumps({"child_paths": {"k.cubin": "k.cubin"}}).encode()
    contents = [
        Content("flashinfer_module", "gemm/gemm.so", b"gemm" * 200),
        Content("triton_cache", "ABC/k.cubin", b"cubin" * 20),
        Content("triton_cache", "ABC/__grp__k.json", group),
        Content("cuda_compute_cache", "a/b/c", b"kernel" * 20),
        Content("cuda_compute_cache", "requirements.json", b'{"driver": "580.1"}'),
    ]
    return make_artifact(7, contents=contents)


def _whole_archive() -> bytes:
    artifact = _whole_artifact()
    place = json.dumps({"flashinfer_version": "0.7.2", "arch": "90a", "key_sha256": KEY_SHA256}).encode()
    blobs = [bytes(artifact.blobs[sha]) for sha in sorted(artifact.blobs)]
    return _members(place, artifact.manifest.to_bytes(), *blobs)


def _table() -> bytes:
    policy = ["cuda_graph_profile_replays", 1, "l2_cache_policy", "cold"]
    rows = {
        f"('fp8_gemm', 'Runner', (({m}, 64), (64, 32)), ('torch.bfloat16', <Kind.name: 3>, -1, 0.5, None, True))": row
        for m, row in ((1, ["Runner", 3]), (8, ["Runner", [1, [2, "a"]], policy]), (16, ["Runner", -1, policy]))
    }
    metadata = {name: f"{name} 1" for name in METADATA_FIELDS}
    return json.dumps({"_metadata": metadata, "_records": {"sparse": {"k": [1, 2]}}, **rows}, indent=2).encode()


def _again(write: Callable[[], Any], parse: Callable[[Any], Any]) -> Any:
    """What was taken, written down and read again: a refusal now is no refusal of the input."""
    try:
        return parse(write())
    except (ArtifactError, ConfigError, ValueError) as error:
        raise AssertionError(f"what was taken is refused when it was written down: {error}") from error


def _read_table(data: bytes, own: Path) -> None:
    table = parse_table(data)
    again = _again(table.to_bytes, parse_table)
    assert again.digest == table.digest, "a table that was taken changes when it is written and read"
    assert len(table.by_task()) == len(table.entries), "two entries for one task"


def _read_key(data: bytes, own: Path) -> None:
    key = parse_file_key(data.decode("utf-8", "surrogateescape"))
    hash(key.task)


def _read_manifest(data: bytes, own: Path) -> None:
    manifest = parse_manifest(data)
    assert _again(manifest.to_bytes, parse_manifest) == manifest, "a manifest that was taken changes when it is written"
    assert manifest.digest
    assert manifest.module_set


def _read_message(data: bytes, own: Path) -> None:
    message = from_bytes(data, *QUESTIONS, Tuned)
    assert from_bytes(to_bytes(message), type(message)) == message, "a message that was taken changes when it is sent"


def _message(rng: Random, samples: tuple[bytes, ...]) -> bytes:
    """Half of the time fields that are JSON and wrong, else bytes that may be no message."""
    sample = rng.choice(samples)
    if rng.random() < 0.5:
        return damage(sample, rng, (*JSON_TOKENS, b"ray-warmup 0 ", b"ray-warmup 1 Load\n", b"\n"))
    line, _, fields = sample.partition(b"\n")
    return line + b"\n" + json.dumps(reshape(json.loads(fields), rng), ensure_ascii=True).encode()


def _read_archive(data: bytes, own: Path) -> None:
    place, artifact = unpack(data)
    where = StorePath.of(own, None, place.flashinfer_version, place.arch, place.key_sha256)
    NodeStore(where).publish(artifact)
    triton_cache.install(artifact.contents("triton_cache"), own / "triton")
    compute_cache.install(artifact.contents("cuda_compute_cache"), own / "nv", "580.1")


def _read_tuning_kernels(data: bytes, own: Path) -> None:
    members = tuning_kernels.opened([Content("tuning_kernels", tuning_kernels.NAME, data)], 1 << 20)
    compute_cache.install(members, own / "nv", "580.1")


def _check_config(config: Any) -> None:
    again = _again(config.model_dump_json, lambda text: parse_config(json.loads(text)))
    assert again == config, "a config that was taken changes as JSON"


def _read_yaml(data: bytes, own: Path) -> None:
    path = own / "config.yaml"
    path.write_bytes(data)
    _check_config(load_config(path))


def _read_override(data: bytes, own: Path) -> None:
    _check_config(load_config(None, [*BASE, data.decode("utf-8", "surrogateescape")]))


def _read_values(data: bytes, own: Path) -> None:
    _check_config(parse_config(json.loads(data)))


def _values(rng: Random, samples: tuple[bytes, ...]) -> bytes:
    return json.dumps(reshape(json.loads(rng.choice(samples)), rng)).encode()


def _read_model(data: bytes, own: Path) -> None:
    path = own / "config.json"
    path.write_bytes(data)
    dims = load_model(path)
    travelled = _again(dims.model_dump_json, type(dims).model_validate_json)
    assert travelled.model_dump() == dims.model_dump(), "a model that was taken changes as JSON"


def _read_model_name(data: bytes, own: Path) -> None:
    load_model(data.decode("utf-8", "surrogateescape"))


CONFIGS = tuple(path.read_bytes() for path in sorted(RECIPES_DIR.glob("*.yaml")))
EVERYTHING = load_config("two_node_16gpu").model_dump_json().encode()
MODELS = tuple(path.read_bytes() for path in sorted(MODELS_DIR.glob("*.json")))
OVERRIDES = (
    b"autotune.buckets=[1, 8]", b"cache.file_mode=0640", b"cluster.node_labels.zone=east",
    b"engine.deadlines={sampler_features: 3}", b"cluster.address=ray://a:1", b"guard.margin=0.25", b"model.name=a",
    b"cluster.ranks_per_node=",
)  # fmt: skip
NAMES = (b"qwen3-0.6b", b"deepseek-v3", b"llama-3.1-8b")
KEY_SAMPLE = b"('fp8_gemm', 'Runner', ((1, 64), (64, 32)), ('torch.bfloat16', <Kind.name: 3>, -1, 0.5, None, True))"

READERS: tuple[Reader, ...] = (
    Reader("table", (_table(),), _read_table, (ArtifactError,), _json),
    Reader("file key", (KEY_SAMPLE,), _read_key, (ArtifactError,), _damaged(JSON_TOKENS)),
    Reader("manifest", (_whole_artifact().manifest.to_bytes(),), _read_manifest, (ArtifactError,), _json),
    Reader(
        "message", (to_bytes(Tuned(make_result())), to_bytes(Load("ab" * 32))), _read_message, (MessageError,), _message
    ),
    Reader("archive", (_whole_archive(),), _read_archive, (ArtifactError,), _archive),
    Reader("tuning kernels", (_whole_archive(),), _read_tuning_kernels, (ArtifactError,), _archive),
    Reader("store", (whole_store(),), read_store, (ArtifactError, StoreError), store_case),
    Reader("config file", (*CONFIGS, EVERYTHING), _read_yaml, (ConfigError,), _yaml),
    Reader("override", OVERRIDES, _read_override, (ConfigError,), _damaged(YAML_TOKENS + TEXT_TOKENS)),
    Reader("config values", (EVERYTHING,), _read_values, (ConfigError,), _values),
    Reader("model file", MODELS, _read_model, (ConfigError,), _json),
    Reader(
        "model name",
        (b"qwen3-0.6b", b"~/m", b"/m/config.json"),
        _read_model_name,
        (ConfigError,),
        _damaged(TEXT_TOKENS),
    ),
)
