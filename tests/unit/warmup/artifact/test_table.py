"""Tuned tables: FlashInfer's layout is kept byte for byte, and everything else is refused."""

from __future__ import annotations

import hashlib
import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_warmup.warmup.artifact.file_key import parse_file_key
from ray_warmup.warmup.artifact.fingerprint import METADATA_FIELDS
from ray_warmup.warmup.artifact.table import (
    MAX_DEPTH,
    MAX_TABLE_BYTES,
    Entry,
    TunedTable,
    metadata_difference,
    parse_table,
)
from ray_warmup.warmup.errors import CorruptArtifactError, RejectedArtifactError

METADATA = {name: f"{name} 1" for name in METADATA_FIELDS}
POLICY = ["cuda_graph_profile_replays", 1, "l2_cache_policy", "cold"]


def key(op: str = "cpu_gemm", runner: str = "Direct", m: int = 8, extras: str = "('torch.float32',)") -> str:
    """A file key as FlashInfer writes it."""
    return f"({op!r}, {runner!r}, (({m}, 64), (64, 32)), {extras})"


def content(**over: Any) -> dict[str, Any]:
    """A valid table as JSON values; keyword arguments replace or (with None) remove top-level keys."""
    values = {"_metadata": METADATA, key(): ["Direct", 3, POLICY], key(m=16): ["Direct", [1, [2, 3]]], **over}
    return {name: value for name, value in values.items() if value is not None}


def encode(values: Any) -> bytes:
    """JSON bytes without any particular layout."""
    return json.dumps(values).encode()


def laid_out(values: dict[str, Any]) -> bytes:
    """The layout of `save_configs`, written independently of the code under test."""
    ordered = {"_metadata": values["_metadata"]}
    if "_records" in values:
        ordered["_records"] = values["_records"]
    for name in sorted(name for name in values if not name.startswith("_")):
        ordered[name] = values[name]
    plain = json.dumps(ordered, sort_keys=True, separators=(",", ":")).encode()
    ordered["_generation"] = hashlib.sha256(plain).hexdigest()
    return json.dumps(ordered, indent=2).encode()


def test_layout_survives_a_round_trip() -> None:
    """A file with a third column, records and a generation comes back byte for byte."""
    data = laid_out(content(_records={"sparse_mla": {"k": [1, 2]}}))
    table = parse_table(data)
    assert table.to_bytes() == data
    assert table.entries[key()].policy == tuple(POLICY)
    assert table.records == {"sparse_mla": {"k": [1, 2]}}


def test_generation_is_computed_when_absent() -> None:
    """A table built from parts is written with the generation that FlashInfer would give it."""
    table = TunedTable(
        METADATA, {key(): Entry("Direct", 3, tuple(POLICY)), key(m=16): Entry("Direct", (1, (2, 3)))}, {}
    )
    assert table.to_bytes() == laid_out(content())


def test_digest_ignores_layout_and_generation() -> None:
    """Order, white space and generation do not change the digest."""
    values = content()
    backwards = dict(reversed(list(values.items())))
    digest = parse_table(laid_out(values)).digest
    assert parse_table(encode(backwards)).digest == digest
    assert parse_table(encode({**values, "_generation": "other"})).digest == digest


@pytest.mark.parametrize(
    "change",
    [
        {key(): ["Direct", 4, POLICY]},
        {key(): ["Direct", 3]},
        {key(m=16): None},
        {"_records": {"x": {"y": 1}}},
        {"_metadata": {**METADATA, "gpu": "other"}},
    ],
)
def test_digest_sees_every_change(change: dict[str, Any]) -> None:
    """A tactic, a policy, an entry, a record or a metadata field that differs changes the digest."""
    assert parse_table(encode(content(**change))).digest != parse_table(encode(content())).digest


@pytest.mark.parametrize("field", METADATA_FIELDS)
def test_every_metadata_field_is_required(field: str) -> None:
    """FlashInfer accepts a table that lacks a field; we name the field and refuse it."""
    metadata = {name: value for name, value in METADATA.items() if name != field}
    with pytest.raises(RejectedArtifactError, match=field):
        parse_table(encode(content(_metadata=metadata)))


def test_metadata_itself_is_required() -> None:
    """A table without metadata is refused."""
    with pytest.raises(RejectedArtifactError, match="_metadata"):
        parse_table(encode(content(_metadata=None)))


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("Direct", r"must be \[runner, tactic\]"),
        ([], r"must be \[runner, tactic\]"),
        (["Direct"], r"must be \[runner, tactic\]"),
        (["Direct", 1, POLICY, 4], r"must be \[runner, tactic\]"),
        ([7, 1], r"must be \[runner, tactic\]"),
        (["Direct", {"a": 1}], "tactic"),
        (["Direct", 1, "hot"], "policy"),
        (["Other", 1], "would never serve"),
    ],
)
def test_entries_of_another_form_are_refused(row: Any, text: str) -> None:
    """An entry that FlashInfer would half load or never serve is refused and named."""
    with pytest.raises(RejectedArtifactError, match=text):
        parse_table(encode(content(**{key(): row})))


def test_two_entries_for_one_task_are_refused() -> None:
    """Two runner classes for one task would leave the choice to the order of runners."""
    with pytest.raises(RejectedArtifactError, match="one task"):
        parse_table(encode(content(**{key(runner="Other"): ["Other", 1]})))


@pytest.mark.parametrize("part", [0, 1, 20, -1, -2])
def test_half_a_file_is_corrupt(part: int) -> None:
    """Every cut of a table is refused as not whole."""
    with pytest.raises(CorruptArtifactError):
        parse_table(laid_out(content())[:part])


def test_a_key_that_stands_twice_is_corrupt() -> None:
    """JSON readers take the last of two equal keys in silence; we do not."""
    data = encode(content())
    twice = data[:-1] + b", " + data[1:]
    with pytest.raises(CorruptArtifactError, match="twice"):
        parse_table(twice)


def test_deep_nesting_is_corrupt_and_brackets_in_text_are_not() -> None:
    """Nesting is limited before the parser sees it; brackets inside a key do not count."""
    deep = encode(content())[:-1] + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(CorruptArtifactError, match="deeper"):
        parse_table(deep)
    harmless = key(extras=repr(("[" * (MAX_DEPTH + 5),)))
    assert harmless in parse_table(encode(content(**{harmless: ["Direct", 1]}))).entries


def test_long_text_costs_a_few_copies() -> None:
    """A megabyte of text in a table needs some megabytes, not a hundred bytes for each character."""
    data = encode(content(_metadata={**METADATA, "gpu": 'x"' * 350_000}))
    tracemalloc.start()
    parse_table(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * len(data)


def test_text_without_an_end_costs_little_time() -> None:
    """Escaped quotes in text that never ends are passed once and not once for each of them."""
    began = time.process_time()
    with pytest.raises(CorruptArtifactError):
        parse_table(b'"' + b'\\"' * 200_000)
    with pytest.raises(RejectedArtifactError):
        parse_file_key("('" + "\\'" * 8_000)
    assert time.process_time() - began < 1.0


def test_size_limit_and_other_values() -> None:
    """Too many bytes, NaN, and JSON that is no object are refused."""
    with pytest.raises(CorruptArtifactError, match="larger"):
        parse_table(b" " * (MAX_TABLE_BYTES + 1))
    with pytest.raises(CorruptArtifactError, match="NaN"):
        parse_table(encode(content(**{key(): ["Direct", float("nan")]})))
    with pytest.raises(RejectedArtifactError, match="object"):
        parse_table(b"[]")
    with pytest.raises(CorruptArtifactError):
        parse_table(b"\xff\xfe{}")


def test_task_key_leaves_the_runner_out() -> None:
    """Two runner classes of one task have one task key; dtypes and enum members in extras are read."""
    extras = "(torch.bfloat16, None, -1, <Kind.swiglu: 3>, 'a<b: 1>')"
    one, two = key(runner="A", extras=extras), key(runner="B", extras=extras)
    assert parse_file_key(one).task == parse_file_key(two).task
    assert parse_file_key(one).runner == "A"
    assert parse_file_key(one).extras[:4] == ("torch.bfloat16", None, -1, "Kind.swiglu: 3")


NOT_KEYS = (
    "",
    "x",
    "('op', 'R', ((1,),))",
    "('op', 'R', (1,), ())",
    "(1, 'R', ((1,),), ())",
    "('op', 'R', ((1,),), 3)",
    "__import__('os').system('true')",
    "('op', 'R', ((1,),), (f(1),))",
    "('op', 'R', ((1,),), (a[0].b,))",
    "(" * 999,
)


@pytest.mark.parametrize("text", NOT_KEYS)
def test_other_texts_are_no_keys(text: str) -> None:
    """Calls, names, and tuples of another form are refused, never evaluated."""
    with pytest.raises(RejectedArtifactError):
        parse_file_key(text)


def test_metadata_difference_names_the_fields() -> None:
    """Only differing fields are reported, with both values; the wildcard counts as a difference."""
    saved = {**METADATA, "gpu": "NVIDIA H100", "cuda_version": "*"}
    assert metadata_difference(METADATA, METADATA) == {}
    assert metadata_difference(saved, METADATA) == {
        "gpu": ("NVIDIA H100", "gpu 1"),
        "cuda_version": ("*", "cuda_version 1"),
    }
    assert metadata_difference({}, METADATA)["gpu"] == ("(missing)", "gpu 1")


TACTICS = st.recursive(st.integers(-1, 2**40), lambda inner: st.lists(inner, max_size=3), max_leaves=6)
ROWS = st.dictionaries(st.integers(1, 4096), st.tuples(TACTICS, st.none() | st.just(POLICY)), max_size=8)


@given(rows=ROWS)
def test_any_table_survives(rows: dict[int, tuple[Any, Any]]) -> None:
    """Whatever the tactics and policies, FlashInfer's layout of them is parsed and written back unchanged."""
    entries = {key(m=m): ["Direct", t] if policy is None else ["Direct", t, policy] for m, (t, policy) in rows.items()}
    data = laid_out({"_metadata": METADATA, **entries})
    table = parse_table(data)
    assert table.to_bytes() == data
    assert len(table.entries) == len(rows)


@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_flipped_byte_never_passes_unseen(position: int, byte: int) -> None:
    """A changed byte is refused, or changes the digest or the generation, or is white space."""
    data = laid_out(content())
    position %= len(data)
    changed = data[:position] + bytes([byte]) + data[position + 1 :]
    try:
        table = parse_table(changed)
    except (CorruptArtifactError, RejectedArtifactError):
        return
    original = parse_table(data)
    same = (table.digest, table.generation) == (original.digest, original.generation)
    assert not same or changed == data or data[position : position + 1].isspace()


@given(data=st.binary(max_size=200))
def test_random_bytes_raise_only_our_errors(data: bytes) -> None:
    """Bytes that are no table raise an artifact error, nothing else."""
    with pytest.raises((CorruptArtifactError, RejectedArtifactError)):
        parse_table(data)
