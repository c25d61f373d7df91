"""The cache key: every named part changes it, nothing that is excluded does, and every field is one or the other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_warmup.configs import WarmupConfig, parse_config
from ray_warmup.configs.model import ModelDims, load_model
from ray_warmup.warmup.artifact.cache_key import EXCLUDED, CacheKey, cache_key, single_flight_id
from ray_warmup.warmup.artifact.fingerprint import PARTS, Fingerprint

BASE: dict[str, Any] = {"cluster": {"world_size": 4}, "model": {"name": "qwen3-0.6b"}}
DIMS = load_model("qwen3-0.6b")

NAMED: dict[str, tuple[Any, str]] = {
    "model.tensor_parallel_size": (2, "tensor_parallel_size"),
    "model.pipeline_parallel_size": (2, "pipeline_parallel_size"),
    "model.expert_parallel_size": (2, "expert_parallel_size"),
    "model.dtype": ("float16", "dtype"),
    "model.quantization": ("fp8", "quantization"),
    "autotune.max_num_batched_tokens": (512, "max_num_batched_tokens"),
    "autotune.max_num_seqs": (8, "max_num_seqs"),
    "autotune.buckets": ([1, 2], "buckets"),
    "autotune.skip_ops": (["fp4_gemm"], "skip_ops"),
}
"""Config field -> another value, and the part that it changes."""

LEFT_OUT: dict[str, dict[str, Any]] = {
    "engine kind": {"engine.kind": "builtin"},
    "address": {"cluster.address": "h:1"},
    "cluster size": {"cluster.world_size": 8},
    "node": {
        "cluster.simulated_nodes": 2,
        "cluster.num_nodes": None,
        "cluster.ranks_per_node": None,
        "cluster.gpus_per_rank": 0.5,
        "cluster.cpus_per_rank": 3.0,
        "cluster.placement_strategy": "SPREAD",
        "cluster.accelerator_type": "H200",
        "cluster.node_labels": {"a": "b"},
        "cluster.backend": "cpu",
    },
    "timeouts": {
        f"timeouts.{name}": 7.0 if name == "silence" else 17.0  # silence must be less than every phase's deadline
        for name in WarmupConfig.model_fields["timeouts"].annotation.model_fields  # type: ignore[union-attr]
    },
    "paths": {
        "cache.root": "/a",
        "cache.override_dir": "/b",
        "cache.root_env": "A",
        "cache.override_env": "B",
        "cache.persistent": False,
        "cache.require_disk": False,
        "cache.file_mode": 0o644,
        "cache.dir_mode": 0o755,
        "cache.tuning_kernels": False,
        "cache.trusted_uids": (5001,),
        "cache.trusted_gids": (2000,),
        "cache.trust": "signed",
        "cache.remote": "s3://bucket/prefix",
        "cache.namespace": "another",
        "cache.remote_timeout": 7,
        "cache.public_keys": ("ed25519:" + "A" * 43 + "=",),
        "cache.signing_key": "/keys/signer.key",
    },
    "model name": {"model.name": "another name"},
    "strategy": {"autotune.strategy": "sharded", "autotune.consensus_ranks": 5},
    "guard": {"guard.enabled": False, "guard.margin": 0.5, "guard.rounds": 9, "guard.judges": 3},
    "shortlist, tie band": {"autotune.shortlist": 2, "autotune.tie_band": 0.5},
    "op families": {"autotune.families": ["gemm"]},
    "memory limits": {"autotune.max_memory_bytes": 1 << 30, "autotune.max_memory_share": 0.5},
    "engine warmups": {
        "engine.enabled": True,
        "engine.disabled": ["sampler_features"],
        "engine.required": [],
        "engine.deadlines": {"prefill_decode": 7},
        "engine.num_layers": 3,
        "engine.block_sizes": [16, 32],
        "engine.kv_blocks": 99,
        "engine.max_model_len": 512,
        "engine.capture_sizes": [1, 4],
        "engine.slot_mapping_for_any": True,
        "engine.slot_mapping_tokens": [4],
        "engine.sparse_mla": False,
        "engine.sparse_mla_mixed_tokens": 8,
        "engine.sparse_mla_prefill_tokens": 512,
        "engine.sparse_mla_backends": ["OTHER"],
        "engine.top_k_widths": [5],
        "engine.logprob_widths": [2],
        "engine.monitor": "raise",
        "engine.verify_requests": 3,
    },
    "dimensions that travel": {"model.dimensions": DIMS.model_dump(mode="json") | {"name": "", "hidden_size": 4096}},
    "losing a node": {"cluster.on_node_loss": "shrink"},
    "optimization level": {"autotune.optimization_level": "O1", "autotune.enabled": True},
}
"""The reason's name in EXCLUDED -> config fields with another value."""
EXCLUDED_FIELDS = {name: value for fields in LEFT_OUT.values() for name, value in fields.items()}


def make_config(changes: dict[str, Any]) -> WarmupConfig:
    """BASE with `section.field` values replaced."""
    data = {section: dict(values) for section, values in BASE.items()}
    for name, value in changes.items():
        section, _, field = name.partition(".")
        data.setdefault(section, {})[field] = value
    return parse_config(data)


def make_key(
    changes: dict[str, Any] | None = None, *, dims: ModelDims = DIMS, tasks: str = "t", **parts: str
) -> CacheKey:
    """A key, by default the base one."""
    return cache_key(make_config(changes or {}), dims, Fingerprint.of({"gpu": "H200", **parts}), tasks)


def test_every_field_is_named_or_left_out_with_a_reason() -> None:
    """A new config field must be decided about here; every reason of EXCLUDED is used or speaks of the process."""
    fields = {
        f"{section}.{name}"
        for section, field in WarmupConfig.model_fields.items()
        for name in field.annotation.model_fields  # type: ignore[union-attr]
    }
    assert fields == set(NAMED) | set(EXCLUDED_FIELDS)
    assert set(LEFT_OUT) | {"rank"} == set(EXCLUDED)
    assert all(EXCLUDED.values())


@pytest.mark.parametrize("field", NAMED)
def test_a_named_field_changes_its_part(field: str) -> None:
    """Another value gives another hash, and exactly its part as the difference."""
    value, part = NAMED[field]
    base, other = make_key(), make_key({field: value})
    assert base.sha256 != other.sha256
    assert list(base.differences(other.as_dict())) == [part]


@pytest.mark.parametrize("field", EXCLUDED_FIELDS)
def test_an_excluded_field_changes_nothing(field: str) -> None:
    """Another value gives the same key."""
    assert make_key({field: EXCLUDED_FIELDS[field]}) == make_key()


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_the_environment_counts(part: str) -> None:
    """Another value of any fingerprint part gives another key that names it."""
    assert list(make_key().differences(make_key(**{part: "another"}).as_dict())) == [part]


DIMENSIONS = [
    name for name, field in ModelDims.model_fields.items() if not (field.exclude or name in ("name", "architecture"))
]


@pytest.mark.parametrize("field", DIMENSIONS)
def test_every_dimension_of_the_model_counts(field: str) -> None:
    """Another value of any dimension gives another key; another name of the model does not."""
    value = getattr(DIMS, field)
    added = (1,) if field.endswith("_layers") and value is None else 2
    other = DIMS.model_copy(update={field: added if value is None else value + added})
    assert list(make_key().differences(make_key(dims=other).as_dict())) == ["model"]
    assert make_key(dims=DIMS.model_copy(update={"name": "alias"})) == make_key()


@pytest.mark.parametrize("field", ["dtype", "weights", "notes"])
def test_what_a_checkpoint_says_besides_does_not_count(field: str) -> None:
    """It is compared with the config before a run, and the config's own values are parts of the key."""
    assert make_key(dims=DIMS.model_copy(update={field: "float16"})) == make_key()


def test_the_task_list_counts() -> None:
    """Another digest of the rank's tasks gives another class."""
    assert make_key().differences(make_key(tasks="u").as_dict()) == {"tasks": ("t", "u")}


def test_order_and_repetition_of_lists_do_not_count() -> None:
    """Buckets and skipped ops are sets; no buckets and an empty selection are two things."""
    assert make_key({"autotune.buckets": [8, 1, 8]}) == make_key({"autotune.buckets": [1, 8]})
    assert make_key({"autotune.skip_ops": ["b", "a"]}) == make_key({"autotune.skip_ops": ["a", "b", "a"]})
    assert make_key({"autotune.buckets": []}) != make_key()


def test_differences_know_absent_parts() -> None:
    """A part that only one of the keys has is compared with the empty value, both ways round."""
    key = CacheKey((("a", "1"), ("b", "2")))
    assert key.differences({"a": "1", "c": "3"}) == {"b": ("2", ""), "c": ("", "3")}
    assert key.differences({"a": "1", "b": "2"}) == {}


@given(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), unique_by=lambda part: part[0], max_size=5))
def test_parts_cannot_run_into_each_other(parts: list[tuple[str, str]]) -> None:
    """Moving a character from one part to the next, or swapping two parts, never gives the same hash."""
    key = CacheKey(tuple(parts))
    assert len(key.sha256) == 64
    joined = CacheKey((("".join(name + value for name, value in parts), ""),))
    assert joined == key or joined.sha256 != key.sha256
    if len(parts) > 1:
        assert CacheKey((parts[1], parts[0], *parts[2:])).sha256 != key.sha256


@given(
    st.dictionaries(st.sampled_from(sorted(NAMED)), st.booleans(), max_size=len(NAMED)),
    st.sets(st.sampled_from(sorted(EXCLUDED_FIELDS)), max_size=6),
)
def test_any_mixture(named: dict[str, bool], excluded: set[str]) -> None:
    """Any number of excluded changes on top of any named ones leaves the key of the named ones alone."""
    changes = {name: NAMED[name][0] for name, chosen in named.items() if chosen}
    noise = {name: EXCLUDED_FIELDS[name] for name in excluded}
    key = make_key(changes)
    assert make_key({**changes, **noise}) == key
    assert set(key.differences(make_key().as_dict())) == {NAMED[name][1] for name in changes}


def test_the_same_work_on_the_same_ranks_flies_once() -> None:
    """Runs share a single-flight id over cosmetic settings, not over work, backend, labels, ranks or independence."""
    base = single_flight_id(make_config({}), DIMS)
    assert len(base) == 16
    for same in (
        {"cache.root": "/x"},
        {"timeouts.task": 5.0},
        {"guard.enabled": False},
        {"autotune.strategy": "sharded"},
    ):
        assert single_flight_id(make_config(same), DIMS) == base
    others = [
        {"model.dtype": "float16"},
        {"cluster.backend": "cpu"},
        {"cluster.world_size": 8},
        {"cluster.node_labels": {"a": "b"}},
        {"autotune.strategy": "independent"},
    ]
    assert len({single_flight_id(make_config(other), DIMS) for other in others} | {base}) == 6
