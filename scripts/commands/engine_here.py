"""Record, prove and show a real engine on this node: seconds and counts of a start, kinds, stored artifacts."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from pydantic import JsonValue
from rich.console import Console

from ray_warmup.actors.errors import EXIT_FAILED, EXIT_READY
from ray_warmup.configs import ConfigError, env
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.configs.loader import load_request
from ray_warmup.scripts.commands.engine_answers import show_standings
from ray_warmup.scripts.terminal.console import add_row, say, table_of, wide_console
from ray_warmup.scripts.views.own_calls import proof_line, requests_json, show_kept_requests, show_requests
from ray_warmup.warmup.caches import engine_kinds
from ray_warmup.warmup.caches.left_out import LEFT_OUT
from ray_warmup.warmup.engines.adapter.adapter import EngineAdapter
from ray_warmup.warmup.engines.artifacts.proof_record import ProofRecord, save_proof
from ray_warmup.warmup.engines.artifacts.request_digest import device_here, driver_here
from ray_warmup.warmup.engines.known_engines import ADAPTERS, adapter_of
from ray_warmup.warmup.engines.launcher.proof import Proof, prove
from ray_warmup.warmup.engines.launcher.proof_rows import proven_by
from ray_warmup.warmup.engines.launcher.recording import Recorded, record
from ray_warmup.warmup.engines.node import installed
from ray_warmup.warmup.engines.node.installed import EngineHere
from ray_warmup.warmup.engines.node.request_status import EngineStanding, standing_of
from ray_warmup.warmup.engines.node.resolution import resolve_here
from ray_warmup.warmup.engines.start.engine_start import Started
from ray_warmup.warmup.engines.tuning.engine_table import requests_of
from ray_warmup.warmup.errors import EngineError

SCHEMA_VERSION = 1
SHOWN_SCHEMA_VERSION = 2
"""Of `engine show`: 2 has a list of engines."""
MIB = 1 << 20


def record_and_show(config: str, settings: Sequence[str], *, as_json: bool) -> int:
    """Record on this node and print what was kept. Raises ConfigError, WarmupError."""
    request = engine_request(config, settings)
    resolve_here(request.engine, request.cache, env.snapshot(), deadline_s=request.timeouts.probing)
    done = record(request.engine, request.cache, env.snapshot())
    if as_json:
        typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, **recorded_json(done)}))
        return EXIT_READY
    console = wide_console()
    table = table_of("kind", "entries", "MiB", "code")
    for kind, (count, size) in sizes_of(done).items():
        is_code = any(row.name == kind and row.is_code for row in engine_kinds.TREE_KINDS)
        add_row(table, kind, count, f"{size / MIB:.2f}", "yes" if is_code else "")
    console.print(table)
    show_requests(console, requests_of(done.artifact))
    for warning in done.tuned.warnings:
        say(console, f"warning: {warning}")
    _show_start(done.started)
    say(console, f"recorded as generation {done.generation} in {done.store}")
    return EXIT_READY


def prove_and_show(config: str, settings: Sequence[str], *, as_json: bool) -> int:
    """Prove on this node and print the verdict. Raises ConfigError, WarmupError."""
    request = engine_request(config, settings)
    hidden = installed.hidden_plugin(adapter_of(request.engine.kind), env.snapshot())
    if hidden is not None:
        raise EngineError(hidden)
    done = prove(request.engine, request.cache, env.snapshot())
    if done.holds:
        note_proof(request, done)
    if as_json:
        typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, **proof_json(done)}))
        if done.holds:
            return EXIT_READY
        return EXIT_FAILED
    console = wide_console()
    table = table_of("rank", "kind", "placed", "found", "compiled")
    for row in proven_by(done, "").kinds:
        if any((row.placed, row.found, row.compiled)):
            add_row(table, row.rank, row.kind, row.placed, row.found, row.compiled)
    console.print(table)
    for told in done.started.records:
        if told.table is not None:
            say(console, proof_line(told.rank, told.table))
    _show_start(done.started)
    for line in (*done.problems, *done.notes):
        say(console, line)
    say(console, "PROVEN" if done.holds else "NOT PROVEN")
    if done.holds:
        return EXIT_READY
    return EXIT_FAILED


def show_engines(config: str | None = None, settings: Sequence[str] = (), *, as_json: bool) -> int:
    """Print where the installed engines look, what is there, and what this node keeps of them.

    With a config: its engine, in its cache, and how its request stands. Raises ConfigError.
    """
    request = None if config is None else engine_request(config, settings)
    asked = tuple(installed.installed_engines()) if request is None else (adapter_of(request.engine.kind),)
    shown = [_Shown.of(adapter, request) for adapter in asked]
    if as_json:
        typer.echo(json.dumps({"schema_version": SHOWN_SCHEMA_VERSION, "engines": [one.to_json() for one in shown]}))
        return EXIT_READY
    console = wide_console()
    if not shown:
        names = " nor ".join(adapter.title for adapter in ADAPTERS.values())
        say(console, f"neither {names} is installed in this environment")
    for one in shown:
        one.show(console)
    for row in LEFT_OUT:
        say(console, f"left out: {row.name}: {row.reason}")
    return EXIT_READY


@dataclass(frozen=True, slots=True)
class _Shown:
    """One engine of this environment as `engine show` prints it."""

    facts: EngineHere
    plugin_problem: str | None
    slow_imports: str | None
    standing: EngineStanding | None
    """How the request stands; None where none is asked about."""

    @classmethod
    def of(cls, adapter: EngineAdapter, request: EngineRunConfig | None) -> _Shown:
        """Look at one engine."""
        facts = installed.describe(adapter, None if request is None else request.cache)
        hidden = installed.hidden_plugin(adapter, env.snapshot())
        standing = None if request is None else standing_of(request)
        return cls(facts, hidden, installed.missing_bytecode(adapter), standing)

    def to_json(self) -> dict[str, JsonValue]:
        """Plain JSON values."""
        document: dict[str, JsonValue] = {**self.facts.to_json(), "plugin_problem": self.plugin_problem}
        if self.standing is not None:
            document["request"] = asdict(self.standing)
        return document

    def show(self, console: Console) -> None:
        """Print a table and lines."""
        facts = self.facts
        say(console, f"{facts.engine} {facts.version}")
        table = table_of("kind", "files", "MiB", "placed", "moved by", "carried", whole=("kind",))
        for row in facts.kinds:
            add_row(table, row.kind, row.files, f"{row.bytes / MIB:.2f}", row.placed, row.variables, row.seen)
        console.print(table)
        for row in facts.kinds:
            say(console, f"{row.kind} looks in {row.directory}")
        for problem in filter(None, (self.plugin_problem, self.slow_imports)):
            say(console, f"warning: {problem}")
        if self.standing is not None:
            show_standings(console, [self.standing])
        for path in facts.stores:
            say(console, f"kept: {path}")
        show_kept_requests(console, facts.stores)


def note_proof(request: EngineRunConfig, done: Proof) -> None:
    """Keep a proof beside the artifact, as a run does, so that `wait` knows of it. Raises StoreError."""
    standing = standing_of(request)
    if not standing.artifact:
        return
    result = done.started.result
    seconds = float(result["engine_s"]), float(result["first_answer_s"])
    driver = driver_here()
    record = ProofRecord(standing.artifact, standing.engine, device_here(), driver, *seconds, time.time())
    save_proof(Path(standing.store), record)


def engine_request(config: str, settings: Sequence[str]) -> EngineRunConfig:
    """Read a config that names a real engine.

    Raises ConfigError for one of the built-in engine, EngineError if the engine is not installed here.
    """
    request = load_request(config, settings)
    if not isinstance(request, EngineRunConfig):
        raise ConfigError("engine.kind: builtin: must name a real engine here, for example vllm")
    adapter = adapter_of(request.engine.kind)
    if not installed.installed_version(adapter):
        raise EngineError(f"{adapter.title} is not installed in this environment ({sys.executable})")
    return request


def sizes_of(done: Recorded) -> dict[str, tuple[int, int]]:
    """Kind -> (entries, bytes before compression)."""
    sizes: dict[str, tuple[int, int]] = {}
    for blob in done.artifact.manifest.blobs:
        count, size = sizes.get(blob.kind, (0, 0))
        sizes[blob.kind] = (count + 1, size + blob.content_size)
    return sizes


def recorded_json(done: Recorded) -> dict[str, JsonValue]:
    """Plain JSON values of a recording."""
    return {
        "store": str(done.store),
        "generation": done.generation,
        "digest": done.artifact.digest,
        "key_sha256": done.artifact.manifest.key.sha256,
        "kinds": {kind: {"entries": count, "bytes": size} for kind, (count, size) in sizes_of(done).items()},
        "seconds": dict(done.started.result),
        "requests": requests_json(requests_of(done.artifact)),
        "guard": dict(done.tuned.guard.counts),
        "warnings": list(done.tuned.warnings),
    }


def proof_json(done: Proof) -> dict[str, JsonValue]:
    """Plain JSON values of a proof."""
    ranks: list[JsonValue] = [
        {
            "rank": told.rank,
            "placed": dict(told.placed),
            "counts": asdict(told.counts),
            "own_seconds": told.own_seconds,
            "table": None if told.table is None else asdict(told.table),
        }
        for told in done.started.records
    ]
    return {
        "proven": done.holds,
        "problems": list(done.problems),
        "notes": list(done.notes),
        "ranks": ranks,
        "seconds": dict(done.started.result),
    }


def _show_start(started: Started) -> None:
    result = started.result
    say(
        wide_console(),
        f"import {result['import_s']:.1f} s, engine {result['engine_s']:.1f} s, first answer "
        f"{result['first_answer_s']:.2f} s, {result['requests']} requests answered",
    )
