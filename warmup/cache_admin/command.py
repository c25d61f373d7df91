"""Run one cache command on this node, with plain JSON in and out, for the command line and for a cluster's nodes.

    perform("ls", {}) -> {"command": "ls", "ok": True, "result": [...]}
    perform("rollback", {"key": "3fa9", "generation": 4}) -> {"command": "rollback", "ok": True, "result": {...}}

Arguments of every command: `cache`, a config's section of that name; `root` and `override_dir`, which win over it.
What they leave open is resolved on the node that runs the command. With `if_present` a node that stores nothing of
the kind answers None. A failure of ours is `{"ok": False, "error": ...}`, so one bad node does not hide the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from ray_warmup.configs import env
from ray_warmup.configs.loader import parse_cache, parse_config
from ray_warmup.configs.schema import CacheSection, WarmupConfig
from ray_warmup.warmup.artifact.manifest import TIMINGS_NAME
from ray_warmup.warmup.artifact.quarantine import valid_quarantine_rows
from ray_warmup.warmup.artifact.timings import read_timings
from ray_warmup.warmup.cache_admin import diff as cache_diff
from ray_warmup.warmup.cache_admin import quarantining, store_changes, store_inspection
from ray_warmup.warmup.cache_admin.compiled_install import put_in_place
from ray_warmup.warmup.cache_admin.signing import sign_current
from ray_warmup.warmup.cache_admin.superseding import supersede_verdict
from ray_warmup.warmup.caches.artifact_install import provider_directory
from ray_warmup.warmup.device.factory import FLASHINFER_TUNER, load_factory
from ray_warmup.warmup.disk.clock import now_in
from ray_warmup.warmup.errors import StoreError, WarmupError
from ray_warmup.warmup.signing.policy import believe
from ray_warmup.warmup.store.node_index import forget_lost
from ray_warmup.warmup.store.node_paths import NodePaths, flashinfer_environment, resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.tasks import tasks_of

Arguments = Mapping[str, Any]
Answer = dict[str, Any]


def perform(command: str, arguments: Arguments) -> Answer:
    """Run one command in this process.

    See the module docstring. Raises KeyError for an unknown command.
    """
    work = _COMMANDS[command]
    try:
        believe(_section(arguments))
        paths = _paths(arguments)
        if arguments.get("if_present") and command in _OF_ONE_STORE and not _stores(paths, arguments):
            return {"command": command, "ok": True, "result": None}
        ok, result = work(paths, arguments)
    except WarmupError as error:
        return {"command": command, "ok": False, "error": str(error)}
    return {"command": command, "ok": ok, "result": result, "where": str(paths.override or paths.root)}


def _paths(arguments: Arguments) -> NodePaths:
    return resolve_paths(_section(arguments))


def _section(arguments: Arguments) -> CacheSection:
    given = {name: arguments[name] for name in ("root", "override_dir") if arguments.get(name)}
    return parse_cache({**(arguments.get("cache") or {}), **given})


def _config(arguments: Arguments) -> WarmupConfig:
    return parse_config(arguments["config"]).model_copy(update={"cache": _section(arguments)})


def _search(paths: NodePaths, arguments: Arguments) -> store_inspection.Found:
    found = store_inspection.search(paths.root, paths.override)
    named = tuple(path for path in found.stores if path.name.startswith(arguments.get("key") or ""))
    return store_inspection.Found(named, found.unreadable)


def _stores(paths: NodePaths, arguments: Arguments) -> tuple[Path, ...]:
    """Raises StoreError where nothing was found and not everything could be looked into."""
    found = _search(paths, arguments)
    if not found.stores and found.unreadable:
        raise StoreError("; ".join(found.problems))
    return found.stores


def _named(paths: NodePaths, arguments: Arguments) -> tuple[Path, ...]:
    """Return every selected store.

    A given key must be present, unless another node may have it.
    """
    found = _stores(paths, arguments)
    return found if found or not arguments.get("key") or arguments.get("if_present") else (_one(paths, arguments),)


def _one(paths: NodePaths, arguments: Arguments) -> Path:
    found = _stores(paths, arguments)
    if len(found) == 1:
        return found[0]
    where = paths.override or paths.root
    key = arguments.get("key")
    if not found and not key:
        raise StoreError(f"nothing is stored in {where}")
    if not found:
        raise StoreError(f"no store with a key beginning with {key!r} in {where}; `ray-warmup cache ls` lists them")
    names = ", ".join(path.name[:12] for path in found)
    which = f"have a key beginning with {key!r} in" if key else "are in"
    raise StoreError(f"{len(found)} stores {which} {where} ({names}): give {'more of ' if key else ''}the key")


def _ls(paths: NodePaths, arguments: Arguments) -> tuple[bool, Any]:
    unreadable = _search(paths, arguments).unreadable
    rows = store_inspection.list_stores(_those_that_can_be_read(paths, arguments), unreadable)
    return all(row.is_readable for row in rows), [asdict(row) for row in rows]


def _verify(paths: NodePaths, arguments: Arguments) -> tuple[bool, Any]:
    found = _search(paths, arguments)
    rows = [store_inspection.verify_store(path) for path in _those_that_can_be_read(paths, arguments)]
    lost = zip(found.unreadable, found.problems, strict=True)
    rows += [store_inspection.Verification(path, 0, 0, 0, (problem,)) for (path, _), problem in lost]
    return all(not row.problems for row in rows), [asdict(row) for row in rows]


def _those_that_can_be_read(paths: NodePaths, arguments: Arguments) -> tuple[Path, ...]:
    """Return the named stores.

    Unlike `_named`, a missing one is no error if it may be in an unreadable directory.
    """
    found = _search(paths, arguments)
    return found.stores if found.stores or found.unreadable else _named(paths, arguments)


def _retime(paths: NodePaths, arguments: Arguments) -> tuple[bool, Any]:
    """Measure a sample of a config's table again.

    Needs the device that the table was made for.
    """
    from ray_warmup.warmup.cache_admin import retiming
    from ray_warmup.warmup.rank.forecast import forecast_rank
    from ray_warmup.warmup.rank.rank_setup import tuner_options
    from ray_warmup.warmup.rank.rank_workloads import runnable

    config = _config(arguments)
    backend = arguments.get("backend") or config.cluster.backend_beside_gpus
    forecast = forecast_rank(config, arguments.get("rank", 0), backend)
    if not forecast.hit:
        raise StoreError(f"no table to time again: {forecast.reason}", path=str(forecast.table_path))
    store = NodeStore(forecast.table_path.parent)
    artifact = store.read_artifact(["autotune_configs", "timings"])
    env.export(flashinfer_environment(paths))
    tuner = load_factory(arguments.get("factory", FLASHINFER_TUNER))(backend, tuner_options(config))
    banned = valid_quarantine_rows(store.load_quarantine()).rows
    tuner.set_quarantine(banned)
    tuner.activate(provider_directory(forecast.table_path.parent, artifact.manifest.module_set))
    tasks = {task.task_id: task for task in tasks_of(runnable(forecast.workloads, tuner.prepare(forecast.workloads)))}
    entries = retiming.recorded_entries(read_timings(artifact).rows)
    if artifact.table is not None and (reason := tuner.check(artifact.table)) is not None:
        raise StoreError(f"the table cannot be timed again: {reason}", path=str(forecast.table_path))
    rows = retiming.retime(tuner, tasks, retiming.sample(entries, arguments["retime"]))
    drifted = sum(row.drifted for row in rows)
    result = {"path": str(forecast.table_path), "entries": len(entries), "drifted": drifted}
    return drifted == 0, result | {"rows": [asdict(row) for row in rows]}


def _explain(paths: NodePaths, arguments: Arguments) -> tuple[bool, Any]:
    """Explain a rank's class, or else the first missing class of this node's own ranks, or the first of all."""
    from ray_warmup.warmup.rank.forecast import forecast_rank
    from ray_warmup.warmup.rank.locations import locations

    config, rank = _config(arguments), arguments.get("rank")
    forecasts = [forecast_rank(config, place.ranks[0]) for place in locations(config, {}, rank)]
    forecast = next((found for found in forecasts if not found.hit), forecasts[0])
    directory = forecast.table_path.parent
    stores = store_inspection.find_stores(paths.root, paths.override)
    row = store_inspection.explain(directory, forecast.key.as_dict(), stores)
    result = asdict(row) | {"hit": forecast.hit, "reason": row.reason or forecast.reason}
    return forecast.hit, result


def _diff(paths: NodePaths, arguments: Arguments) -> tuple[bool, Any]:
    path = _one(paths, arguments)
    (row,) = store_inspection.list_stores((path,))
    new = arguments.get("new") or row.current
    earlier = [number for number in row.generations if new is not None and number < new]
    old = arguments.get("old") or max(earlier, default=None)
    if new is None or old is None:
        stored = ", ".join(map(str, row.generations)) or "none"
        raise StoreError(f"{path}: nothing to compare generation {new} with; stored: {stored}")
    return True, asdict(cache_diff.diff_generations(path, old, new))


def _export(paths: NodePaths, arguments: Arguments) -> tuple[bool, Any]:
    """Export a store to a file.

    Without `file`, return the bytes as the result's `data`, its only field that is not JSON.
    """
    path, file, generation = _one(paths, arguments), arguments.get("file"), arguments.get("generation")
    if file is None:
        data = store_changes.export_bytes(path, generation)
        return True, {"store": str(path), "bytes": len(data), "data": data}
    size = store_changes.export_store(path, Path(file), generation)
    return True, {"store": str(path), "file": file, "bytes": size}


def _import(paths: NodePaths, arguments: Arguments) -> tuple[bool, Any]:
    """Import an archive from a file or from `data`, and install the parts that an engine needs besides the table.

    Without a config the modes are those of the store, where there is one.
    """
    section, data = _section(arguments), arguments.get("data")
    modes = section.modes if arguments.get("config") else None
    source = Path(arguments["file"]) if data is None else data
    force = bool(arguments.get("force"))
    done = store_changes.import_archive(source, paths.root, paths.override, modes=modes, force=force)
    store = NodeStore(done.path.parent)
    supersede_verdict(store, done.sha256, "cache import")
    placed = put_in_place(store, done.generation, paths.workspace, env.snapshot(), modes=store.modes)
    written = {"bytes": done.bytes, "files": [str(path) for path in done.files]}
    refused = read_timings(store.read_artifact(["autotune_configs", "timings"], done.generation)).warnings(TIMINGS_NAME)
    compiled = {"placed": dict(placed.files), "notes": [*refused, *placed.notes]}
    return True, {"path": str(done.path), "generation": done.generation, **written, **compiled}


def _prune(paths: NodePaths, arguments: Arguments) -> tuple[bool, Any]:
    rules = store_changes.PruneRules(
        keep_generations=arguments.get("keep"),
        older_than_days=arguments.get("older_than_days"),
        max_bytes=arguments.get("max_bytes"),
        installed_version=metadata.version("flashinfer-python") if arguments.get("other_versions") else None,
    )
    found, stores = _search(paths, arguments), _those_that_can_be_read(paths, arguments)
    now = now_in(paths.override or paths.root) if arguments.get("yes") else time.time()
    plan = store_changes.plan_prune(stores, rules, now)
    untouched = [*found.problems, *store_changes.untouchable(stores)]
    result: dict[str, Any] = {"plan": [asdict(row) for row in plan], "done": None}
    if arguments.get("yes"):
        done = store_changes.apply_prune(plan, stores, time.time)
        forget_lost(paths.root, paths.override)
        untouched = list(dict.fromkeys([*untouched, *done.untouched]))
        result["done"] = asdict(done)
    return not untouched, result | {"untouched": untouched}


def _rollback(paths: NodePaths, arguments: Arguments) -> tuple[bool, Any]:
    path, force = _one(paths, arguments), bool(arguments.get("force"))
    if not arguments.get("plan"):
        done = store_changes.rollback(path, arguments.get("generation"), force=force)
        supersede_verdict(NodeStore(path), done.table, "cache rollback")
        return True, asdict(done)
    if not force:
        store_changes.refuse_live(path)
    return True, asdict(store_changes.plan_rollback(path, arguments.get("generation")))


def _sign(paths: NodePaths, arguments: Arguments) -> tuple[bool, Any]:
    done = sign_current(_one(paths, arguments), arguments.get("generation"), time.time())
    return True, asdict(done)


def _quarantine_ls(paths: NodePaths, arguments: Arguments) -> tuple[bool, Any]:
    found = quarantining.banned_in(_named(paths, arguments))
    return not any(row.problems for row in found), [asdict(row) for row in found]


def _quarantine_clear(paths: NodePaths, arguments: Arguments) -> tuple[bool, Any]:
    rule = quarantining.Rule(**{name: arguments.get(name) or "" for name in ("op", "runner", "tactic")})
    found = quarantining.lift(_named(paths, arguments), rule)
    return not any(row.problems for row in found), [asdict(row) for row in found]


_COMMANDS: dict[str, Callable[[NodePaths, Arguments], tuple[bool, Any]]] = {
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
