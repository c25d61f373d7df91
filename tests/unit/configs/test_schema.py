"""The schema: every wrong value names section.field, the value and the rule; nothing changes after construction."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError

from ray_warmup.configs import ConfigError, WarmupConfig, cache_section, engine_schema, parse_config, schema
from ray_warmup.configs.schema import TimeoutsSection
from ray_warmup.configs.section import Section
from ray_warmup.warmup.machine.state.phase import Phase


def make_config(**sections: dict[str, Any]) -> WarmupConfig:
    """A smallest config with these sections on top."""
    return parse_config({"cluster": {"world_size": 2}, "model": {"name": "qwen3-0.6b"}, **sections})


@pytest.mark.parametrize(
    ("section", "field", "value", "rule"),
    [
        ("cluster", "simulated_nodes", -1, "greater than or equal to 0"),
        ("cluster", "num_nodes", True, "not a truth value"),
        ("cluster", "cpus_per_rank", True, "not a truth value"),
        ("engine", "deadlines", {"slot_mapping": True}, "not a truth value"),
        ("cluster", "gpus_per_rank", 9, "less than or equal to 8"),
        ("cluster", "placement_strategy", "SPRAED", "'PACK', 'SPREAD', 'STRICT_PACK' or 'STRICT_SPREAD'"),
        ("cluster", "backend", "rocm", "'auto', 'cuda' or 'cpu'"),
        ("cluster", "node_labels", {"a": 1}, "valid string"),
        ("model", "tensor_parallel_size", 0, "greater than or equal to 1"),
        ("model", "dtype", "int8", "'bfloat16', 'float16' or 'float32'"),
        ("model", "quantization", "int4", "'none' or 'fp8'"),
        ("autotune", "optimization_level", "O4", "'O0', 'O1', 'O2' or 'O3'"),
        ("autotune", "strategy", "all", "'auto', 'leader', 'sharded', 'consensus' or 'independent'"),
        ("autotune", "max_num_batched_tokens", 1 << 21, "less than or equal to 1048576"),
        ("autotune", "enabled", "perhaps", "valid boolean"),
        ("autotune", "buckets", "many", "must be a list"),
        ("guard", "margin", 1.0, "less than 1"),
        ("guard", "rounds", 2, "greater than or equal to 3"),
        ("cache", "file_mode", "rw-r--r--", "octal file mode such as 0600"),
        ("cache", "dir_mode", 0o1777, "is octal 1777; must lie between 0700 and 0775"),
        ("cache", "dir_mode", "0600", "is octal 0600; must lie between 0700 and 0775, with 0700 for the owner"),
        ("cache", "file_mode", "0200", "is octal 0200; must lie between 0400 and 0775"),
        ("cache", "file_mode", "0646", "without 0002: who can write the cache can run code"),
        ("cache", "file_mode", 384.0, "octal file mode such as 0600"),
        ("cache", "file_mode", True, "octal file mode such as 0600"),
        ("cache", "file_mode", None, "octal file mode such as 0600"),
        ("cache", "root", 7, "valid string"),
        ("cache", "root", "/a\udcff", "no Unicode text"),
        ("model", "name", "\ud800", "no Unicode text"),
        ("autotune", "skip_ops", ("\ud800",), "no Unicode text"),
        ("timeouts", "tuning", 0, "greater than 0"),
        ("timeouts", "task", float("inf"), "finite number"),
        ("timeouts", "task", float("nan"), "finite number"),
        ("timeouts", "task", 1e9, "less than or equal to 604800"),
        ("cluster", "cpus_per_rank", float("inf"), "finite number"),
        ("model", "tensor_parallel_size", 10**40, "less than or equal to 65536"),
        ("timeouts", "loading", "soon", "valid number"),
    ],
)
def test_a_wrong_value_names_field_value_and_rule(section: str, field: str, value: Any, rule: str) -> None:
    """The complaint is `section.field...: value: rule`."""
    given = {"world_size": 2} if section == "cluster" else {"name": "m"} if section == "model" else {}
    with pytest.raises(ConfigError) as caught:
        make_config(**{section: {**given, field: value}})
    shown = next(iter(value.values())) if isinstance(value, dict) else value
    where, _, rest = str(caught.value).partition(": ")
    assert where.startswith(f"{section}.{field}")
    assert rest.startswith(f"{shown!r}: ")
    assert rule in rest


@pytest.mark.parametrize("section", [name for name in WarmupConfig.model_fields if name not in ("cluster", "model")])
def test_an_unknown_field_is_refused(section: str) -> None:
    """A misspelt field is named with its section; nothing is ignored."""
    with pytest.raises(ConfigError, match=rf"^{section}\.tpyo: 1: unknown field$"):
        make_config(**{section: {"tpyo": 1}})


def test_an_unknown_section_is_refused() -> None:
    """A section that does not exist is named."""
    with pytest.raises(ConfigError, match=r"^autotuen: \{\.\.\.\}: unknown field$"):
        make_config(autotuen={})


def test_every_complaint_is_listed() -> None:
    """Two wrong fields give both complaints in one message."""
    with pytest.raises(ConfigError) as caught:
        make_config(guard={"rounds": 1}, timeouts={"task": -1})
    assert "guard.rounds" in str(caught.value)
    assert "timeouts.task" in str(caught.value)


def test_a_missing_field_is_named() -> None:
    """Required fields that are absent are called missing."""
    with pytest.raises(ConfigError, match=r"model\.name: missing"):
        parse_config({"cluster": {"world_size": 1}, "model": {}})


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ({}, "exactly one of world_size (is None) and ranks_per_node (is None)"),
        ({"world_size": 2, "ranks_per_node": 2}, "exactly one of world_size (is 2) and ranks_per_node (is 2)"),
        ({"world_size": 2, "num_nodes": 2}, "num_nodes (is 2) needs ranks_per_node"),
    ],
)
def test_ranks_are_counted_one_way(cluster: dict[str, int], words: str) -> None:
    """World size and ranks per node exclude each other, and a node count needs the latter."""
    with pytest.raises(ConfigError) as caught:
        make_config(cluster=cluster)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("cluster", "ranks"),
    [({"world_size": 6}, 6), ({"ranks_per_node": 3}, 3), ({"ranks_per_node": 3, "num_nodes": 4}, 12)],
)
def test_the_world_size_follows(cluster: dict[str, int], ranks: int) -> None:
    """`num_ranks` is the world size, or ranks per node times nodes."""
    assert make_config(cluster=cluster).cluster.num_ranks == ranks


def test_the_model_fills_the_ranks() -> None:
    """Tensor times pipeline size must divide the ranks; the complaint has all three numbers."""
    with pytest.raises(ConfigError) as caught:
        make_config(cluster={"world_size": 6}, model={"name": "m", "tensor_parallel_size": 4})
    assert "6 ranks" in str(caught.value)
    assert "model.tensor_parallel_size: 4" in str(caught.value)
    assert make_config(cluster={"world_size": 8}, model={"name": "m", "tensor_parallel_size": 4}).cluster.num_ranks == 8


@pytest.mark.parametrize(
    ("level", "switch", "enabled"),
    [
        ("O0", None, False),
        ("O1", None, True),
        ("O2", None, True),
        ("O3", None, True),
        ("O0", True, True),
        ("O3", False, False),
    ],
)
def test_the_explicit_switch_wins_over_the_level(level: str, switch: bool | None, enabled: bool) -> None:
    """O0 is off and O1 to O3 are on, unless `enabled` is given."""
    assert make_config(autotune={"optimization_level": level, "enabled": switch}).autotune.is_enabled is enabled


@pytest.mark.parametrize(("text", "mode"), [("0600", 0o600), ("640", 0o640), ("0o755", 0o755), (0o644, 0o644)])
def test_modes_in_quotes_are_octal(text: str | int, mode: int) -> None:
    """A quoted mode is read as octal with or without its zero; a number is taken as it is."""
    assert make_config(cache={"file_mode": text}).cache.file_mode == mode


def test_labels_are_text_on_both_sides() -> None:
    """Keys of a mapping are looked at like its values."""
    for labels in ({"a": "\ud800"}, {"\udcff": "a"}):
        with pytest.raises(ConfigError, match=r"cluster\.node_labels: holds bytes or characters"):
            parse_config({"cluster": {"world_size": 1, "node_labels": labels}, "model": {"name": "m"}})


def test_a_config_is_frozen() -> None:
    """Neither a field nor a section can be replaced."""
    config = make_config()
    with pytest.raises(ValidationError, match="frozen"):
        config.guard.margin = 0.5  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.guard = config.guard  # type: ignore[misc]


def sections_below(section: type[Section]) -> Iterator[type[Section]]:
    """Every section that is made of another one, at any depth."""
    for below in section.__subclasses__():
        yield below
        yield from sections_below(below)


def test_every_field_is_documented() -> None:
    """Each field of each section has a docstring under it, in the source, where a reader looks."""
    trees = [ast.parse(inspect.getsource(module)) for module in (schema, cache_section, engine_schema)]
    bare, fields = [], 0
    for section in (node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)):
        for field, below in pairwise([*section.body, ast.Pass()]):
            if isinstance(field, ast.AnnAssign):
                fields += 1
                if not (isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)):
                    bare.append(f"{section.name}.{ast.unparse(field.target)}")
    assert bare == []
    assert fields == sum(len(vars(section)["__annotations__"]) for section in sections_below(Section))


def test_every_phase_has_its_deadline() -> None:
    """The setting that a phase names exists."""
    for phase in Phase:
        if not phase.is_final:
            section, _, name = phase.setting.partition(".")
            assert section == "timeouts"
            assert name in TimeoutsSection.model_fields


def test_expert_shards_fill_the_ranks_of_a_stage() -> None:
    """More expert shards than a stage has ranks, or a number that leaves ranks over, is refused by name."""
    model = {"name": "m", "pipeline_parallel_size": 2, "expert_parallel_size": 4}
    assert make_config(cluster={"world_size": 8}, model=model).model.expert_parallel_size == 4
    with pytest.raises(ConfigError, match=r"model.expert_parallel_size: 4: must divide the 2 ranks"):
        make_config(cluster={"world_size": 4}, model=model)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"engine": {"required": ["prefil"]}}, "engine.required.0: 'prefil': Input should be 'slot_mapping'"),
        ({"engine": {"deadlines": {"prefil": 3}}}, "engine.deadlines.prefil"),
        ({"engine": {"deadlines": {"prefill_decode": 0}}}, "engine.deadlines.prefill_decode: 0"),
        ({"engine": {"monitor": "shout"}}, "engine.monitor: 'shout'"),
        ({"engine": {"block_sizes": [16, 32, 64]}}, "engine.block_sizes: [16, 32, 64]"),
        ({"engine": {"block_sizes": []}}, "engine.block_sizes"),
        (
            {"engine": {"capture_sizes": [4, 512]}, "autotune": {"max_num_seqs": 256}},
            "engine.capture_sizes: [4, 512]: must be at most autotune.max_num_seqs 256",
        ),
    ],
)
def test_engine_settings_are_checked(changes: dict[str, Any], words: str) -> None:
    """An unknown warmup, a deadline of nothing, a group without a layer and a size that no step has are refused."""
    with pytest.raises(ConfigError) as caught:
        make_config(**changes)
    assert words in str(caught.value)
    assert make_config(engine={"block_sizes": [16, 32], "capture_sizes": [1, 256]}).engine.num_layers == 2


def test_too_few_rounds_are_raised_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A setting that was valid stays so, is told to be too small, and is the same work as the smallest that proves."""
    assert make_config(guard={"rounds": 3}) == make_config(guard={"rounds": 7})
    assert [record.message for record in caplog.records] == [
        "guard.rounds: 3 is raised to 7, fewer rounds prove nothing -> set guard.rounds to at least that"
    ]
