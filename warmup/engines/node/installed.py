"""The engines of this environment without importing them: version, cache directories, what this node keeps."""

from __future__ import annotations

import getpass
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from pydantic import JsonValue

from ray_warmup.configs import VERSION, env
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.caches import engine_kinds, placed
from ray_warmup.warmup.caches.left_out import LEFT_OUT
from ray_warmup.warmup.caches.placed import PlacedRegister
from ray_warmup.warmup.engines.adapter.adapter import PLUGIN, EngineAdapter
from ray_warmup.warmup.engines.artifacts import engine_store
from ray_warmup.warmup.engines.known_engines import ADAPTERS
from ray_warmup.warmup.store.node_paths import resolve_paths


@dataclass(frozen=True, slots=True)
class KindHere:
    """One kind's directory and what is in it."""

    kind: str
    directory: str
    """A pattern where another kind's directory holds folders of this one."""
    files: int
    bytes: int
    placed: int = 0
    """Entries that this project has put there."""
    variables: str = ""
    """Variables that move the directory, the first one first."""
    seen: str = ""
    """Whether and where the kind was moved from one home to another."""


@dataclass(frozen=True, slots=True)
class EngineHere:
    """One engine of this environment."""

    engine: str
    version: str
    """Empty where it is not installed."""
    kinds: tuple[KindHere, ...]
    stores: tuple[str, ...]
    """Stores of this version below the cache root."""

    def to_json(self) -> dict[str, JsonValue]:
        """Plain JSON values."""
        return asdict(self)


def describe(adapter: EngineAdapter, cache: CacheSection | None = None) -> EngineHere:
    """Look at this environment and this node, with the cache of a config or the node's own."""
    version = installed_version(adapter)
    root = resolve_paths(cache or CacheSection()).root
    stores = engine_store.stores(root, adapter.name, version) if version else ()
    kept = tuple(str(store.directory) for store in stores)
    register = placed.register(root)
    kinds = [_kind(adapter, kind, path, register) for kind, path in adapter.looks_in().items()]
    return EngineHere(adapter.name, version, (*kinds, *_left_out()), kept)


def installed_engines() -> Iterator[EngineAdapter]:
    """Every engine that is installed in this environment."""
    for adapter in ADAPTERS.values():
        if installed_version(adapter):
            yield adapter


def installed_version(adapter: EngineAdapter) -> str:
    """Return an engine's version as it names itself, empty where it is not installed."""
    for name in adapter.distributions:
        try:
            return metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return ""


def is_plugin_registered(adapter: EngineAdapter) -> bool:
    """Return True if the engine finds this project's entry point."""
    return PLUGIN in {entry.name for entry in metadata.entry_points(group=adapter.plugin_group)}


def other_wheel(adapter: EngineAdapter) -> str | None:
    """Return why the installed wheel is not the one of this code, with the remedy, or None.

    A job's code is its own, while the engine loads the plugin of what is installed.
    """
    for entry in metadata.entry_points(group=adapter.plugin_group):
        version = VERSION if entry.dist is None else entry.dist.version
        if entry.name == PLUGIN and version != VERSION:
            return (
                f"ray-warmup {version} is installed there and this run's code is {VERSION}: {adapter.title} would "
                f"load another plugin than the one that is proven; pip install ray-warmup=={VERSION} there"
            )
    return None


def missing_bytecode(adapter: EngineAdapter) -> str | None:
    """Warn that an engine's modules have no bytecode, with the remedy. Return None where they have it.

    Measured with vLLM on an H100: imports of one process take 37 s without and 19 s with it
    (tests/gpu/results/vllm_study.md).
    """
    spec = importlib.util.find_spec(adapter.contract.package)
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    if any(package.glob("__pycache__/__init__.*.pyc")):
        return None
    return (
        f"{package} has no bytecode, so each process of the engine compiles its modules anew, doubling the time of "
        f"its imports; run `python -m compileall -q {package.parent}` once, in the image"
    )


def hidden_plugin(adapter: EngineAdapter, environ: Mapping[str, str]) -> str | None:
    """Return why an engine in this environment would not load this plugin, with the remedy, or None."""
    variable = adapter.plugins_variable
    listed = environ.get(variable)
    is_list = listed is not None and (bool(listed) or adapter.is_empty_list_none)
    if listed is not None and is_list and PLUGIN not in [name.strip() for name in listed.split(",")]:
        others = ",".join(filter(None, (listed, PLUGIN)))
        return (
            f"{variable}={listed} hides ray-warmup's plugin from {adapter.title}; unset it, or set {variable}={others}"
        )
    if not is_plugin_registered(adapter):
        return (
            "ray-warmup's wheel is not installed in this environment, or other metadata of it (a checkout's egg-info "
            f"on PYTHONPATH) is found first, so {adapter.title} would not load its plugin; pip install "
            f"ray-warmup=={VERSION}"
        )
    return other_wheel(adapter)


def _kind(adapter: EngineAdapter, kind: str, directory: Path, register: PlacedRegister) -> KindHere:
    num_files, size, num_ours = 0, 0, 0
    for path in _files(adapter, kind, directory):
        num_files += 1
        size += path.stat().st_size
    for found in register.directories():
        if found.kind == kind and Path(found.directory).is_relative_to(directory):
            num_ours += len(found.entries)
    in_table = next((row.seen for row in engine_kinds.WATCHED if row.name == kind), "")
    seen = adapter.seen.get(kind, in_table)
    if kind in adapter.folder_of:
        directory = directory / "*" / adapter.folder_of[kind]
    return KindHere(kind, str(directory), num_files, size, num_ours, adapter.moved_by.get(kind, ""), seen)


def _left_out() -> Iterator[KindHere]:
    """Look at the kinds that are not shipped and have a directory of their own."""
    environ, temporary = env.snapshot(), tempfile.gettempdir()
    for row in LEFT_OUT:
        directory = row.directory(environ, _user(), temporary)
        if directory is None:
            continue
        sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file()]
        yield KindHere(row.name, str(directory), len(sizes), sum(sizes), 0, row.variable, "left out")


def _user() -> str:
    """Return this user's name, or number where it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _files(adapter: EngineAdapter, kind: str, directory: Path) -> Iterator[Path]:
    """Yield the files of one kind. Two kinds may share a directory, of which one has folders of a name of its own."""
    folder = adapter.folder_of.get(kind)
    for path in directory.rglob("*"):
        parts = path.relative_to(directory).parts
        is_of_kind = folder in parts
        if folder is None:
            is_of_kind = set(adapter.folder_of.values()).isdisjoint(parts)
        if is_of_kind and path.is_file():
            yield path
