"""A tuned table: the file that FlashInfer's `save_configs` writes, parsed strictly and written back byte for byte.

Pure: neither torch nor FlashInfer is imported, so a node's writer can check bytes without them.
FlashInfer itself accepts a file without metadata, does not look at entries and leaves a damaged
file half loaded; everything is therefore refused here first.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from ray_warmup.configs.strict_json import parse_json
from ray_warmup.warmup.artifact.file_key import FileKey, parse_file_key, quoted
from ray_warmup.warmup.artifact.fingerprint import METADATA_FIELDS
from ray_warmup.warmup.errors import CorruptArtifactError, RejectedArtifactError
from ray_warmup.warmup.families.known import metadata_fields_of
from ray_warmup.warmup.tasks import freeze

MAX_TABLE_BYTES = 16 * 1024 * 1024
"""A table of 84 tasks has under 30 KiB; anything near this size is not a table."""

MAX_DEPTH = 24
"""Nesting of brackets. A table's own is 3, compound tactics add a few."""

_METADATA, _RECORDS, _GENERATION = "_metadata", "_records", "_generation"


@dataclass(frozen=True, slots=True)
class Entry:
    """Runner, tactic and measurement policy of one file key."""

    runner: str
    tactic: Any
    """An int or nested tuples; -1 is the runner's own default."""
    policy: tuple[Any, ...] | None = None
    """Measurement policy (the third column), or None if the file has two columns."""

    def to_json(self) -> list[Any]:
        """`[runner, tactic]`, with the policy as third item where there is one."""
        row = [self.runner, thaw(self.tactic)]
        if self.policy is None:
            return row
        return [*row, thaw(self.policy)]


@dataclass(frozen=True, slots=True)
class TunedTable:
    """A whole table.

    Build one with `parse_table` or from parts. `to_bytes` gives FlashInfer's own layout.
    """

    metadata: dict[str, str]
    entries: dict[str, Entry]
    """File key -> entry."""
    records: dict[str, JsonValue]
    """FlashInfer's namespaced records (top-level `_records`), kept as they came."""
    generation: str | None = None
    """FlashInfer's hash of the file's content (top-level `_generation`); None: computed on writing."""

    @property
    def digest(self) -> str:
        """Return the sha256 of metadata, entries and records, independent of order, layout and generation."""
        rows = {key: entry.to_json() for key, entry in self.entries.items()}
        content = {_METADATA: self.metadata, _RECORDS: self.records, "entries": rows}
        return hashlib.sha256(_compact(content)).hexdigest()

    def to_bytes(self) -> bytes:
        """The file as `save_configs` lays it out: metadata, records where there are any, sorted keys, generation."""
        content: dict[str, JsonValue] = {_METADATA: dict(self.metadata)}
        if self.records:
            content[_RECORDS] = self.records
        content |= {key: self.entries[key].to_json() for key in sorted(self.entries)}
        generation = self.generation or hashlib.sha256(_compact(content)).hexdigest()
        return json.dumps({**content, _GENERATION: generation}, indent=2).encode()

    def by_task(self) -> dict[tuple[str, tuple[Any, ...], tuple[Any, ...]], str]:
        """Task key (op, shapes, extras) -> file key."""
        return {parse_file_key(key).task: key for key in self.entries}


def parse_table(data: bytes) -> TunedTable:
    """Parse and check a table.

    Raises:
        CorruptArtifactError: too large, not UTF-8 JSON (a half file), nested too deeply, a key twice.
        RejectedArtifactError: JSON, but not a table: a metadata field missing, an entry of another form, a key
            whose runner is not its entry's, two entries for one task.
    """
    return _parsed(bytes(data))


@functools.lru_cache(maxsize=4)
def _parsed(data: bytes) -> TunedTable:
    """Parse a table once, although a rank checks it, compares its digest and loads it. Nobody changes a table."""
    content = _read_json(data)
    if not isinstance(content, dict):
        raise RejectedArtifactError(f"a table is a JSON object, not {type(content).__name__}")
    metadata = _metadata(content.pop(_METADATA, None))
    records = content.pop(_RECORDS, {})
    if not (isinstance(records, dict) and all(isinstance(value, dict) for value in records.values())):
        raise RejectedArtifactError(f"{_RECORDS} must be an object of objects")
    generation = content.pop(_GENERATION, None)
    if not (generation is None or (isinstance(generation, str) and generation)):
        raise RejectedArtifactError(f"{_GENERATION} must be text")
    entries = {key: _entry(key, row) for key, row in content.items()}
    _refuse_shared_tasks(entries)
    return TunedTable(metadata, entries, records, generation)


def metadata_difference(saved: Mapping[str, str], current: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Metadata fields that differ: name -> (saved, current).

    FlashInfer's wildcard `*` is no match here: a table of ours always names its environment.
    """
    found = {}
    for name in dict.fromkeys((*METADATA_FIELDS, *current)):
        pair = (saved.get(name, "(missing)"), current.get(name, "(missing)"))
        if pair[0] != pair[1]:
            found[name] = pair
    return found


def describe_difference(difference: Mapping[str, tuple[str, str]]) -> str:
    """Format a difference on one line, such as `gpu: table NVIDIA H100, here NVIDIA H200`."""
    return "; ".join(f"{name}: table {saved}, here {current}" for name, (saved, current) in difference.items())


def thaw(value: Any) -> Any:
    """The JSON form of a tactic or policy: tuples become lists."""
    if isinstance(value, list | tuple):
        return [thaw(item) for item in value]
    return value


def _read_json(data: bytes) -> Any:
    """JSON within the limits of size and depth, each key once, no NaN."""
    if len(data) > MAX_TABLE_BYTES:
        raise CorruptArtifactError(f"table of {len(data)} bytes is larger than {MAX_TABLE_BYTES}")
    try:
        return parse_json(data, MAX_TABLE_BYTES, max_depth=MAX_DEPTH)
    except ValueError as error:
        raise CorruptArtifactError(f"table of {len(data)} bytes is not whole JSON: {error}") from error


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise RejectedArtifactError(f"table without {_METADATA}: it cannot be told which environment it is for")
    fields = metadata_fields_of(str(value.get("flashinfer_version", "")))
    missing = [name for name in fields if name not in value]
    if missing:
        raise RejectedArtifactError(f"{_METADATA} lacks {', '.join(missing)}")
    wrong = [name for name, text in value.items() if not (isinstance(text, str) and text)]
    if wrong:
        raise RejectedArtifactError(f"{_METADATA}: {', '.join(map(quoted, wrong[:5]))} must be text")
    return value


def _entry(key: str, row: Any) -> Entry:
    if not (isinstance(row, list) and len(row) in (2, 3) and isinstance(row[0], str) and row[0]):
        raise RejectedArtifactError(f"entry {quoted(key)} must be [runner, tactic] or [runner, tactic, policy]")
    if not _is_tactic(row[1]):
        raise RejectedArtifactError(f"entry {quoted(key)}: tactic must be a number, text or nested lists of them")
    if len(row) == 3 and not (isinstance(row[2], list) and _is_tactic(row[2])):
        raise RejectedArtifactError(f"entry {quoted(key)}: measurement policy must be a list")
    parsed: FileKey = parse_file_key(key)
    if parsed.runner != row[0]:
        raise RejectedArtifactError(
            f"entry {quoted(key)} names runner {quoted(row[0])}: FlashInfer would never serve it"
        )
    return Entry(row[0], freeze(row[1]), *map(freeze, row[2:]))


def _is_tactic(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_tactic(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _refuse_shared_tasks(entries: Mapping[str, Entry]) -> None:
    owners: dict[Any, str] = {}
    for key in entries:
        other = owners.setdefault(parse_file_key(key).task, key)
        if other != key:
            raise RejectedArtifactError(f"two entries for one task: {quoted(other)} and {quoted(key)}")


def _compact(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
