"""FlashInfer's compiled modules: collected from its workspace, installed where its ahead-of-time lookup finds them.

A restored workspace is rebuilt by ninja (absolute paths and header times are part of its state); a library that the
ahead-of-time lookup finds is loaded as it is. So the libraries go into a generated *provider*, a directory with a
`flashinfer_jit_cache` package, FlashInfer's own protocol for prebuilt modules:

    <provider>/flashinfer_jit_cache/__init__.py     generated; names the modules, defers to an installed package too
    <provider>/flashinfer_jit_cache/provider.json   version, architectures, modules, sha256 of every file
    <provider>/flashinfer_jit_cache/modules/<name>/<name>.so

The provider's directory goes onto the module path, so it holds one package and nothing else. It is activated only if no
other user can write there and every file still has its installed content. Nothing is written into site-packages. If a
library does not load, FlashInfer warns and compiles.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from ray_warmup.configs.modes import OWNER_ONLY, Modes
from ray_warmup.warmup.artifact.artifact import Blob, Content, sha256
from ray_warmup.warmup.artifact.manifest import Manifest
from ray_warmup.warmup.caches import module_lookup
from ray_warmup.warmup.caches.provider import (
    MARK,
    MODULES,
    PACKAGE,
    SHIM,
    check,
    description,
    is_installed,
)
from ray_warmup.warmup.caches.requirements import REQUIREMENTS, required
from ray_warmup.warmup.disk.publish import publish_bytes
from ray_warmup.warmup.errors import CorruptArtifactError, RejectedArtifactError

logger = logging.getLogger(__name__)


def describe_process(cuda: str, architectures: Sequence[str]) -> dict[str, str]:
    """Return the facts of this process that a module's binary depends on: versions, ABI and C library.

    `cuda` is torch's CUDA version (empty on CPU); `architectures` as FlashInfer writes them: `90a`.
    """
    return {
        "flashinfer": metadata.version("flashinfer-python"),
        "tvm_ffi": metadata.version("apache-tvm-ffi"),
        "cuda": cuda,
        "architectures": ",".join(sorted(architectures)),
        "python_abi": f"{sys.implementation.cache_tag}-{platform.machine()}",
        "glibc": platform.libc_ver()[1],
    }


def collect(library_paths: Mapping[str, Path], requirements: Mapping[str, str]) -> tuple[Content, ...]:
    """Return the libraries of these modules as contents with their requirements, or none without modules.

    Raises CorruptArtifactError for a file that is not a whole shared library (a build that was cut off).
    """
    contents = []
    for name, path in sorted(library_paths.items()):
        data = path.read_bytes()
        # A build that was killed leaves a truncated file under the final name.
        if not is_whole_library(data):
            raise CorruptArtifactError(f"{path} is not a complete shared library; build {name} again", path=str(path))
        contents.append(Content("flashinfer_module", f"{name}/{name}.so", data))
    if contents:
        text = json.dumps(dict(requirements), sort_keys=True).encode()
        contents.append(Content("flashinfer_module", REQUIREMENTS, text))
    return tuple(contents)


def names_of(manifest: Manifest) -> tuple[str, ...]:
    """The modules that an artifact brings."""
    return tuple(Path(e.path).stem for e in manifest.of_kind("flashinfer_module") if e.path != REQUIREMENTS)


def library_paths(names: Iterable[str] | None = None) -> dict[str, Path]:
    """Return the compiled library of each module in this process's FlashInfer.

    None selects every module that this process has requested so far. Absent libraries are left out. Imports FlashInfer.
    """
    from flashinfer.jit import env as jit_env
    from flashinfer.jit.core import jit_spec_registry

    if names is None:
        names = jit_spec_registry.get_all_specs()
    found = {}
    for name in names:
        built = jit_env.FLASHINFER_JIT_DIR / name / f"{name}.so"
        path = built
        if not built.exists():
            path = module_lookup.path_of(name)
        if path.exists():
            found[name] = path
    return found


def is_foreseen(name: str, base: Path, version: str, arch: str) -> bool:
    """Return True if a process on this node would find a module's library.

    `base` is FLASHINFER_WORKSPACE_BASE. An installed package of prebuilt modules counts as complete. Works without
    FlashInfer.
    """
    built = base / ".cache" / "flashinfer" / version / arch / "cached_ops" / name / f"{name}.so"
    if built.is_file():
        return True
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        return False
    home = Path(package.origin).parent
    return not (home / MARK).is_file() or (home / MODULES / name / f"{name}.so").is_file()


def install(
    contents: Sequence[Content],
    provider: Path,
    here: Mapping[str, str],
    *,
    modes: Modes = OWNER_ONLY,
) -> list[Path]:
    """Write a provider directory for these libraries, and return the files written.

    The importable package is written last. `here` is `describe_process` of the process that will load them. Raises
    RejectedArtifactError if the libraries were built for another version, architecture, ABI or a newer C library, and
    StoreError if the disk refuses.
    """
    if not contents:
        return []
    needed = _requirements(contents)
    difference = unmet_requirement(needed, here)
    if difference is not None:
        raise RejectedArtifactError(f"the compiled modules do not fit this process: {difference}", what=difference)
    home = provider / PACKAGE
    files: dict[Path, Blob] = {}
    shas: dict[str, str] = {}
    requirements = ""
    for content in contents:
        shas[content.path] = sha256(content.data)
        if content.path == REQUIREMENTS:
            requirements = bytes(content.data).decode()
        else:
            files[home / MODULES / content.path] = content.data
    files[home / MARK] = description(needed, requirements, shas)
    files[home / "__init__.py"] = SHIM.read_bytes()
    written = []
    for path, data in files.items():
        if not _holds(path, data):
            publish_bytes(path, data, modes=modes)
            written.append(path)
    return written


def unmet_requirement(needed: Mapping[str, str], here: Mapping[str, str]) -> str | None:
    """Return the requirement of the libraries that such a process does not meet, or None."""
    for name in ("flashinfer", "tvm_ffi", "cuda", "architectures", "python_abi"):
        if needed.get(name) != here.get(name):
            return f"{name}: built for {needed.get(name)!r}, this process has {here.get(name)!r}"
    # A library runs with a newer C library than it was built with, not with an older one.
    if _version(needed.get("glibc", "")) > _version(here.get("glibc", "")):
        return f"glibc: built with {needed.get('glibc')}, this process has {here.get('glibc')}"
    return None


def activate(provider: Path) -> bool:
    """Make this process's FlashInfer find a provider's modules.

    Returns False if `provider` has none. Before FlashInfer is imported, the provider is added to `sys.path`. Afterwards
    FlashInfer's list of providers is extended. Modules that this process has loaded stay loaded. Raises as
    `provider.check` does.
    """
    if not is_installed(provider):
        return False
    path = str(provider)
    if path in sys.path:
        return True
    check(provider)
    # FlashInfer reads its list of providers once, at import.
    if "flashinfer.jit.env" in sys.modules:
        module_lookup.add(provider)
    sys.path.insert(0, path)
    return True


def is_whole_library(data: bytes | memoryview) -> bool:
    """Return True for an ELF file whose section table lies inside these bytes, so that truncation is detected."""
    return _is_whole(bytes(data[:64]), len(data))


def is_whole_file(path: Path) -> bool:
    """Return True if a file is present and a complete shared library."""
    try:
        with path.open("rb") as file:
            return _is_whole(file.read(64), path.stat().st_size)
    except OSError:
        return False


def _is_whole(head: bytes, size_of_all: int) -> bool:
    if len(head) < 64 or head[:5] != b"\x7fELF\x02":
        return False
    # Fields of the ELF-64 header: offset of the section table, size and number of its entries.
    offset = int.from_bytes(head[40:48], "little")
    size = int.from_bytes(head[58:60], "little")
    count = int.from_bytes(head[60:62], "little")
    return offset > 0 and count > 0 and offset + size * count <= size_of_all


def _requirements(contents: Sequence[Content]) -> dict[str, str]:
    document = required(contents)
    if not {"flashinfer", "architectures"} <= set(document):
        raise CorruptArtifactError(f"the compiled modules come without {REQUIREMENTS}; they were not installed")
    return {str(name): str(value) for name, value in document.items()}


def _holds(path: Path, data: bytes | memoryview) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
