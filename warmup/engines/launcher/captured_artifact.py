"""Turn the cache directories of a recorded start into one artifact: what the engine filled is what is shipped."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from ray_warmup.warmup.artifact.artifact import Artifact, Content, pack
from ray_warmup.warmup.artifact.manifest import UNGUARDED, GuardSummary, Kind
from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.caches import engine_kinds, flashinfer_modules, triton_cache
from ray_warmup.warmup.engines.adapter.flashinfer_workspace import built_libraries
from ray_warmup.warmup.engines.artifacts.engine_store import RECORD_NAME, RecordedFacts, RecordedRank, record_text
from ray_warmup.warmup.engines.artifacts.rank_record import CompiledModule, RankRecord, device_name
from ray_warmup.warmup.engines.artifacts.specialisations import KERNELS, SPECIALISATIONS_NAME, Specialisation, to_bytes
from ray_warmup.warmup.engines.identity.identity import Identity
from ray_warmup.warmup.engines.known_engines import adapter_of
from ray_warmup.warmup.engines.start.engine_start import Started
from ray_warmup.warmup.errors import EngineError

STRATEGY = "recorded"
TABLE: Kind = "autotune_configs"
FACTS = engine_kinds.MODELINFOS.name


def collect(
    started: Started,
    home: Path,
    arguments: Mapping[str, JsonValue],
    request: str = "",
    further: Sequence[Content] = (),
    guard: GuardSummary = UNGUARDED,
    strategy: str = STRATEGY,
) -> Artifact:
    """Pack everything that a recorded start has left in its home, and further contents.

    Args:
        started: the start.
        home: the directory of its caches.
        arguments: of the engine, without secrets.
        request: digest of the request, where it is known.
        further: contents beside the caches; one of a kind and path that the home has, too, is left out.
        guard: of those.
        strategy: of the artifact's manifest.

    Raises:
        EngineError: ranks of one replica disagree on what they are, or the warmup did not end in one of them.
        StoreError, CorruptArtifactError: a file cannot be read or is cut off.
    """
    records = started.records
    identity = common_identity(records)
    contents: list[Content] = []
    for record in records:
        contents += _compiled(record)
    contents += _inductor(records)
    contents += _plain(records[0])
    contents += _triton(records[0])
    contents += _flashinfer(records[0], home)
    contents += further
    is_cold = strategy == STRATEGY
    facts = _facts(started, arguments, request, _entries_of_table(further), is_cold=is_cold)
    contents.append(Content("engine_record", RECORD_NAME, record_text(facts)))
    contents.append(Content("engine_record", SPECIALISATIONS_NAME, to_bytes(_specialisations(records))))
    return pack(
        _once(contents),
        key=identity.as_dict(),
        key_sha256=identity.sha256,
        fingerprint={"engine_version": identity.as_dict()["engine_version"]},
        created_at=time.time(),
        strategy=strategy,
        guard=guard,
    )


def _facts(
    started: Started, arguments: Mapping[str, JsonValue], request: str, entries: int, *, is_cold: bool
) -> RecordedFacts:
    """Describe the recorded start, whose table has this many entries. `is_cold`: it began with empty caches."""
    first = started.records[0]
    ranks = [_recorded(record, entries) for record in started.records]
    for beside in started.besides:
        # Whoever asks for a model's facts, they are those of the replica.
        if beside.inspected:
            counts = ranks[0].compiled
            counts[FACTS] = counts.get(FACTS, 0) + len(beside.inspected)
    seconds: dict[str, float] = {}
    if is_cold:  # a start that found a part of it says nothing about one with empty caches
        seconds = {name: float(value) for name, value in started.result.items() if name.endswith("_s")}
    return RecordedFacts(
        request, dict(arguments), dict(first.settings), dict(first.compile_factors), tuple(ranks), seconds
    )


def _recorded(record: RankRecord, entries: int) -> RecordedRank:
    """Count what one rank compiled, and beside it its kernels and the entries of its table."""
    compiled = dict(record.counts.compiled)
    if record.specialisations:
        compiled[KERNELS] = len(record.specialisations)
    if entries:
        compiled[TABLE] = entries
    return RecordedRank(record.rank, compiled, dict(record.counts.found))


def _entries_of_table(further: Sequence[Content]) -> int:
    """Return the number of entries of the table among further contents, 0 without one."""
    for content in further:
        if content.kind == TABLE:
            return len(parse_table(bytes(content.data)).entries)
    return 0


def common_identity(records: Sequence[RankRecord]) -> Identity:
    """Return the identity that all ranks of a replica have. Raises EngineError where they differ."""
    identity = Identity(records[0].identity)
    for record in records:
        if not record.is_warm:
            raise EngineError(f"rank {record.rank} did not reach the end of the engine's warmup", rank=record.rank)
        if record.identity != identity.parts:
            differing = [name for name, value in record.identity if identity.as_dict().get(name) != value]
            raise EngineError(
                f"rank {record.rank} differs from rank {records[0].rank} in {', '.join(differing)}; ranks of one "
                "replica must run the same engine with the same configuration",
                rank=record.rank,
            )
    return identity


def _compiled(record: RankRecord) -> Iterable[Content]:
    for module in record.modules:
        prefix = f"{module.tag}/{device_name(module.device_index)}/{module.rank}/"
        yield from engine_kinds.TORCH_COMPILE.layout.collect(Path(module.path).parent, prefix)


def _inductor(records: Sequence[RankRecord]) -> Iterable[Content]:
    """Inductor's cache, which the ranks of a node share."""
    modules: dict[str, CompiledModule] = {}
    for record in records:
        for module in record.modules:
            modules.setdefault(module.tag, module)
    for tag, module in modules.items():
        directory = Path(module.path).parents[1] / "inductor_cache"
        yield from engine_kinds.INDUCTOR.layout.collect(directory, f"{tag}/inductor_cache/")


def _plain(record: RankRecord) -> Iterable[Content]:
    places = dict(record.places)
    for kind in engine_kinds.TREE_KINDS:
        if kind.name in places:
            yield from kind.layout.collect(Path(places[kind.name]))


def _triton(record: RankRecord) -> Iterable[Content]:
    directory = Path(dict(record.places)["triton_cache"])
    return triton_cache.collect(directory, triton_cache.snapshot(directory))


def _flashinfer(record: RankRecord, home: Path) -> Iterable[Content]:
    """Every module that was built in the engine's fresh workspace."""
    adapter = adapter_of(dict(record.identity)["engine"])
    libraries = built_libraries(Path(adapter.home(home)["FLASHINFER_WORKSPACE_BASE"]))
    return flashinfer_modules.collect(libraries, record.module_requirements)


def _specialisations(records: Sequence[RankRecord]) -> list[Specialisation]:
    """Every kernel that any rank met, once."""
    rows = dict.fromkeys(row for record in records for row in record.specialisations)
    return [Specialisation(*row) for row in rows]


def _once(contents: Iterable[Content]) -> tuple[Content, ...]:
    """Each kind and path once: ranks on one node find each other's files."""
    unique: dict[tuple[Kind, str], Content] = {}
    for content in contents:
        unique.setdefault((content.kind, content.path), content)
    return tuple(unique.values())
