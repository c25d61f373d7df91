"""Run one cache command on this node, for the command line and for a cluster's nodes.

    perform("ls", CacheRequest()) -> CacheAnswer("ls", ok=True, result=(StoreRow(...), ...))
    perform("diff", CacheRequest(key="3fa9", old=4)) -> CacheAnswer("diff", ok=True, result=Difference(...))

A failure of ours is an answer with an error, so that one bad node does not hide the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from ray_warmup.configs import env
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.configs.loader import config_of_text, parse_cache, request_of_text
from ray_warmup.configs.schema import CacheSection, WarmupConfig
from ray_warmup.warmup.artifact.manifest import TIMINGS_NAME
from ray_warmup.warmup.artifact.quarantine import valid_quarantine_rows
from ray_warmup.warmup.artifact.timings import read_timings
from ray_warmup.warmup.cache_admin import diff as cache_diff
from ray_warmup.warmup.cache_admin import (
    exporting,
    placed_entries,
    quarantining,
    selection,
    store_changes,
    store_inspection,
    store_verification,
)
from ray_warmup.warmup.cache_admin.compiled_install import put_in_place
from ray_warmup.warmup.cache_admin.requests import (
    CacheAnswer,
    CacheRequest,
    Exported,
    Imported,
    Pruned,
    Result,
    RetimedTable,
)
from ray_warmup.warmup.cache_admin.signing import sign_current
from ray_warmup.warmup.cache_admin.superseding import supersede_verdict
from ray_warmup.warmup.caches.artifact_install import provider_directory
from ray_warmup.warmup.caches.placed import register
from ray_warmup.warmup.device.factory import load_factory
from ray_warmup.warmup.disk.clock import now_in
from ray_warmup.warmup.disk.publish import sweep
from ray_warmup.warmup.engines.artifacts import engine_store, request_index
from ray_warmup.warmup.engines.artifacts.admission import admit
from ray_warmup.warmup.engines.node.installed import installed_engines, installed_version
from ray_warmup.warmup.engines.node.prediction import predict_here
from ray_warmup.warmup.errors import EngineError, StoreError, WarmupError
from ray_warmup.warmup.signing.policy import believe
from ray_warmup.warmup.store.node_index import forget_lost
from ray_warmup.warmup.store.node_paths import NodePaths, flashinfer_environment, resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore, Published
from ray_warmup.warmup.tasks import tasks_of


def perform(command: str, asked: CacheRequest) -> CacheAnswer:
    """Run one command in this process.

    Raises KeyError for an unknown command.
    """
    work = _COMMANDS[command]
    try:
        section = section_of(asked)
        believe(section)
        paths = resolve_paths(section)
        if asked.if_present and command in _OF_ONE_STORE and not selection.selected(paths, asked):
            return CacheAnswer(command, ok=True)
        ok, result = work(paths, asked)
    except WarmupError as error:
        return CacheAnswer(command, ok=False, error=str(error))
    return CacheAnswer(command, ok, result, str(paths.override or paths.root))


def section_of(asked: CacheRequest) -> CacheSection:
    """Return the cache section of a request, with its own directories in place. Raises ConfigError."""
    given = {"root": asked.root, "override_dir": asked.override_dir}
    return parse_cache(asked.cache.model_dump(mode="json") | {name: value for name, value in given.items() if value})


def _config(asked: CacheRequest) -> WarmupConfig:
    if asked.config is None:
        raise StoreError("this command needs a config")
    return config_of_text(asked.config).model_copy(update={"cache": section_of(asked)})


def _engine_config(asked: CacheRequest) -> EngineRunConfig | None:
    """Return the config of a real engine, where the request has one."""
    if asked.config is None:
        return None
    request = request_of_text(asked.config)
    if not isinstance(request, EngineRunConfig):
        return None
    return request.model_copy(update={"cache": section_of(asked)})


def _ls(paths: NodePaths, asked: CacheRequest) -> tuple[bool, Result]:
    unreadable = selection.search(paths, asked).unreadable
    placed = placed_entries.count_by_store(register(paths.root))
    rows = tuple(
        replace(row, placed=placed[row.path])
        for row in store_inspection.list_stores(selection.readable(paths, asked), unreadable)
    )
    return all(row.is_readable for row in rows), rows


def _verify(paths: NodePaths, asked: CacheRequest) -> tuple[bool, Result]:
    found = selection.search(paths, asked)
    rows = [_verified(paths, path) for path in selection.readable(paths, asked)]
    lost = zip(found.unreadable, found.problems, strict=True)
    for (path, _), problem in lost:
        rows.append(store_verification.Verification(path, 0, 0, 0, (problem,)))
    return all(not row.problems for row in rows), tuple(rows)


def _verified(paths: NodePaths, path: Path) -> store_verification.Verification:
    """Check a store, and what was placed from it in engines' caches."""
    row = store_verification.verify_store(path)
    return replace(row, problems=(*row.problems, *placed_entries.changed(register(paths.root), path)))


def _retime(paths: NodePaths, asked: CacheRequest) -> tuple[bool, Result]:
    """Measure a sample of a config's table again.

    Needs the device that the table was made for.
    """
    from ray_warmup.warmup.cache_admin import retiming
    from ray_warmup.warmup.device.tuner import TunerOptions
    from ray_warmup.warmup.rank.forecast import forecast_rank
    from ray_warmup.warmup.rank.rank_workloads import runnable

    config = _config(asked)
    backend = asked.backend or config.cluster.backend_beside_gpus
    forecast = forecast_rank(config, asked.rank or 0, backend)
    if not forecast.hit:
        raise StoreError(f"no table to time again: {forecast.reason}", path=str(forecast.table_path))
    store = NodeStore(forecast.table_path.parent)
    artifact = store.read_artifact(["autotune_configs", "timings"])
    env.export(flashinfer_environment(paths))
    tuner = load_factory(asked.factory)(backend, TunerOptions(config.autotune, config.guard))
    banned = valid_quarantine_rows(store.load_quarantine()).rows
    tuner.set_quarantine(banned)
    tuner.activate(provider_directory(forecast.table_path.parent, artifact.manifest.module_set))
    tasks = {task.task_id: task for task in tasks_of(runnable(forecast.workloads, tuner.prepare(forecast.workloads)))}
    entries = retiming.recorded_entries(read_timings(artifact).rows)
    if artifact.table is not None and (reason := tuner.check(artifact.table)) is not None:
        raise StoreError(f"the table cannot be timed again: {reason}", path=str(forecast.table_path))
    rows = retiming.retime(tuner, tasks, retiming.sample(entries, asked.retime))
    drifted = sum(row.drifted for row in rows)
    return drifted == 0, RetimedTable(str(forecast.table_path), len(entries), drifted, rows)


def _explain(paths: NodePaths, asked: CacheRequest) -> tuple[bool, Result]:
    """Explain a rank's class, or else the first missing class of this node's own ranks, or the first of all.

    For a real engine, the engine's own code resolves the request.
    """
    engine = _engine_config(asked)
    if engine is not None:
        found = predict_here(engine, env.snapshot(), explain=False)
        if found.error:
            raise EngineError(found.error)
        key = ""
        if found.resolved is not None:
            key = found.resolved.key_sha256
        return found.hit, store_inspection.Explanation(found.store, found.hit, found.reason, (), key)
    from ray_warmup.warmup.rank.forecast import forecast_rank
    from ray_warmup.warmup.rank.locations import locations

    config, rank = _config(asked), asked.rank
    forecasts = [forecast_rank(config, place.ranks[0]) for place in locations(config, {}, rank)]
    forecast = next((found for found in forecasts if not found.hit), forecasts[0])
    directory = forecast.table_path.parent
    stores = store_inspection.find_stores(paths.root, paths.override)
    row = store_inspection.explain(directory, forecast.key.as_dict(), stores)
    return forecast.hit, replace(row, hit=forecast.hit, reason=row.reason or forecast.reason)


def _diff(paths: NodePaths, asked: CacheRequest) -> tuple[bool, Result]:
    path = selection.one(paths, asked)
    (row,) = store_inspection.list_stores((path,))
    new = asked.new or row.current
    earlier = [number for number in row.generations if new is not None and number < new]
    old = asked.old or max(earlier, default=None)
    if new is None or old is None:
        stored = ", ".join(map(str, row.generations)) or "none"
        raise StoreError(f"{path}: nothing to compare generation {new} with; stored: {stored}")
    return True, cache_diff.diff_generations(path, old, new)


def _export(paths: NodePaths, asked: CacheRequest) -> tuple[bool, Result]:
    """Export a store to a file or an OCI image layout, or without either as bytes."""
    path, file, generation = selection.one(paths, asked), asked.file, asked.generation
    if file is None:
        data = exporting.export_bytes(path, generation)
        return True, Exported(str(path), len(data), data=data)
    size = exporting.export_store(path, Path(file), generation, oci=asked.oci)
    return True, Exported(str(path), size, file)


def _import(paths: NodePaths, asked: CacheRequest) -> tuple[bool, Result]:
    """Import an archive from a file or from `data`, and install the parts that an engine needs besides the table.

    Without a config, an existing store keeps its modes.
    """
    section, data = section_of(asked), asked.data
    modes = section.modes if asked.config else None
    source = Path(asked.file or "") if data is None else data
    force = asked.force
    done = store_changes.import_archive(source, paths.root, paths.override, modes=modes, force=force)
    store = NodeStore(done.path.parent)
    if engine_store.engine_of(store.directory) is not None:
        return True, _imported_engine(paths, store, done, asked.by)
    supersede_verdict(store, done.sha256, asked.by)
    placed = put_in_place(store, done.generation, paths.workspace, env.snapshot(), modes=store.modes)
    refused = read_timings(store.read_artifact(["autotune_configs", "timings"], done.generation)).warnings(TIMINGS_NAME)
    return True, Imported(
        path=str(done.path),
        generation=done.generation,
        bytes=done.bytes,
        files=tuple(map(str, done.files)),
        placed=dict(placed.files),
        notes=(*refused, *placed.notes),
    )


def _imported_engine(paths: NodePaths, store: NodeStore, done: Published, by: str) -> Imported:
    """Note the request that an engine's artifact answers: engines find it by themselves when they start."""
    row = request_index.note_recorded(paths.root, store)
    admit(store.directory, store.current()[1].digest, by)
    notes = ["an engine that starts on this node places it by itself"]
    if row is None:
        notes.append("it names no request, so `wait` and `path` do not know it; engines do")
    files = tuple(map(str, done.files))
    return Imported(str(store.directory), done.generation, done.bytes, files, {}, tuple(notes))


def _prune(paths: NodePaths, asked: CacheRequest) -> tuple[bool, Result]:
    rules = store_changes.PruneRules(
        keep_generations=asked.keep,
        older_than_days=asked.older_than_days,
        max_bytes=asked.max_bytes,
        installed_version=_flashinfer() if asked.other_versions else None,
        installed_engines=_engines_here() if asked.other_versions else {},
    )
    found, stores = selection.search(paths, asked), selection.readable(paths, asked)
    placed = register(paths.root)
    now = time.time()
    if asked.yes:
        now = now_in(paths.override or paths.root)
        sweep(paths.override or paths.root, now=now)  # such a file of a prune that was killed
    plan = store_changes.plan_prune(stores, rules, now)
    unused = placed_entries.plan_removals(placed, stores, is_everything=not asked.key)
    untouched = [*found.problems, *store_changes.untouchable(stores)]
    done = None
    if asked.yes:
        done = store_changes.apply_prune(plan, stores, time.time)
        forget_lost(paths.root, paths.override)
        entries = placed_entries.remove(placed, unused)
        done = replace(
            done,
            removed=(*done.removed, *entries.removed),
            freed_bytes=done.freed_bytes + entries.freed_bytes,
            kept=(*done.kept, *entries.kept),
        )
        untouched = list(dict.fromkeys([*untouched, *done.untouched, *entries.problems]))
    return not untouched, Pruned((*plan, *unused), done, tuple(untouched))


def _engines_here() -> dict[str, str]:
    """Return the version of each installed engine."""
    return {adapter.name: installed_version(adapter) for adapter in installed_engines()}


def _flashinfer() -> str | None:
    """Return FlashInfer's version, None where only an engine without it is installed."""
    try:
        return metadata.version("flashinfer-python")
    except metadata.PackageNotFoundError:
        return None


def _rollback(paths: NodePaths, asked: CacheRequest) -> tuple[bool, Result]:
    path, force = selection.one(paths, asked), asked.force
    if not asked.plan:
        done = store_changes.rollback(path, asked.generation, force=force)
        supersede_verdict(NodeStore(path), done.table, "cache rollback")
        if engine_store.engine_of(path) is not None:
            admit(path, NodeStore(path).current()[1].digest, "cache rollback")
        return True, done
    if not force:
        store_changes.refuse_live(path)
    return True, store_changes.plan_rollback(path, asked.generation)


def _sign(paths: NodePaths, asked: CacheRequest) -> tuple[bool, Result]:
    return True, sign_current(selection.one(paths, asked), asked.generation, time.time())


def _quarantine_ls(paths: NodePaths, asked: CacheRequest) -> tuple[bool, Result]:
    found = quarantining.banned_in(selection.named(paths, asked))
    return not any(row.problems for row in found), tuple(found)


def _quarantine_clear(paths: NodePaths, asked: CacheRequest) -> tuple[bool, Result]:
    rule = quarantining.Rule(asked.op, asked.runner, asked.tactic)
    found = quarantining.lift(selection.named(paths, asked), rule)
    return not any(row.problems for row in found), tuple(found)


_COMMANDS: dict[str, Callable[[NodePaths, CacheRequest], tuple[bool, Result]]] = {
    "ls": _ls,
    "verify": _verify,
    "retime": _retime,
    "explain": _explain,
    "diff": _diff,
    "export": _export,
    "import": _import,
    "prune": _prune,
    "rollback": _rollback,
    "sign": _sign,
    "quarantine ls": _quarantine_ls,
    "quarantine clear": _quarantine_clear,
}
COMMANDS = tuple(_COMMANDS)
_OF_ONE_STORE = ("diff", "rollback")
