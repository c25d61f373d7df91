"""A provider on disk: the one package that FlashInfer's lookup of prebuilt modules imports, and whether it may be.

The description beside the package's code names every file with its sha256, so that a provider can be checked by
itself, and against the manifest of an artifact by the digest of its set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_warmup.warmup.artifact.artifact import sha256
from ray_warmup.warmup.artifact.manifest import parse_json, set_of
from ray_warmup.warmup.caches.requirements import REQUIREMENTS
from ray_warmup.warmup.disk.publish import publish_bytes
from ray_warmup.warmup.disk.trust import code_refusal, contents_refusal
from ray_warmup.warmup.errors import CorruptArtifactError, UnsafeArchiveError

PACKAGE = "flashinfer_jit_cache"
MARK = "provider.json"
MODULES = "modules"
SHIM = Path(__file__).parent / "provider_shim.py"
_LIMIT = 4 << 20


def is_installed(provider: Path) -> bool:
    """Return True if an installation into this directory was completed."""
    return (provider / PACKAGE / "__init__.py").is_file()


def description(needed: Mapping[str, str], requirements: str, shas: Mapping[str, str]) -> bytes:
    """Build the description beside the package's code.

    `needed` is parsed from `requirements`. `shas` covers all contents.
    """
    document = {
        "version": needed["flashinfer"],
        "cuda_architectures": [f"sm{name}" for name in needed["architectures"].split(",") if name],
        "modules": sorted(Path(path).stem for path in shas if path != REQUIREMENTS),
        "requirements": requirements,
        "files": dict(shas),
    }
    return json.dumps(document, sort_keys=True).encode()


def check(provider: Path, module_set: str | None = None) -> None:
    """Raises UnsafeArchiveError where `refusal` has a reason, CorruptArtifactError for a description that is none."""
    why = refusal(provider, module_set)
    if why is not None:
        raise UnsafeArchiveError(f"no code is loaded from {provider}: {why}", path=str(provider))


def refusal(provider: Path, module_set: str | None = None) -> str | None:
    """Return the reason against loading code from a provider, or None.

    Checks the owners and modes of every directory up to the file system's root and of every file in it, the set of
    files, and the bytes of each. `module_set` is the expected set of modules (`Manifest.module_set`). Raises
    CorruptArtifactError for an invalid description.
    """
    why = code_refusal(provider) or contents_refusal(provider)
    if why is not None:
        return why
    for path in provider.iterdir():
        if path.name != PACKAGE:
            return f"{path} does not belong there"
    shas = _described(provider)
    if module_set is not None and set_of(shas.items()) != module_set:
        return f"{provider / PACKAGE / MARK} names other modules than the manifest"
    return _difference(provider / PACKAGE, shas)


def private_copy(provider: Path, directory: Path, module_set: str) -> Path:
    """Copy a checked provider below a directory of this user, unless the copy is there, and return the copy.

    For an engine that cannot hold a lease where the provider is. Raises StoreError, OSError if the provider was pruned
    meanwhile, and as `check` does for the copy.
    """
    copy = directory / provider.name
    home = provider / PACKAGE
    if not is_installed(copy):
        names = [MARK]
        for path in sorted(_described(provider)):
            if path != REQUIREMENTS:
                names.append(f"{MODULES}/{path}")
        for name in names:
            publish_bytes(copy / PACKAGE / name, (home / name).read_bytes())
        publish_bytes(copy / PACKAGE / "__init__.py", SHIM.read_bytes())  # last: it makes the copy count
    check(copy, module_set)
    return copy


def _difference(home: Path, shas: Mapping[str, str]) -> str | None:
    """The first file that is missing, does not belong there, or is not what was installed."""
    wanted = {home / MODULES / path: sha for path, sha in shas.items() if path != REQUIREMENTS}
    wanted[home / "__init__.py"] = sha256(SHIM.read_bytes())
    found = {path for path in home.rglob("*") if path.is_file() and not _is_bytecode(path, home)}
    # A file too many matters as much as one too few: Python would import it.
    odd = sorted(found ^ (wanted.keys() | {home / MARK}))
    if odd:
        if odd[0] in found:
            return f"{odd[0]} does not belong there"
        return f"{odd[0]} is missing"
    for path, sha in wanted.items():
        if sha256(path.read_bytes()) != sha:
            return f"{path} is not what was installed"
    return None


def _is_bytecode(path: Path, home: Path) -> bool:
    """Return True for Python's own compiled file of the package.

    Its directory is checked, so its bytes are trusted.
    """
    return path.parent == home / "__pycache__" and path.name.startswith("__init__.") and path.suffix == ".pyc"


def _described(provider: Path) -> dict[str, str]:
    """Path and sha256 of every content of a set, as its own description says. Raises CorruptArtifactError."""
    mark = provider / PACKAGE / MARK
    try:
        data = mark.read_bytes()
        document: Any = parse_json(data, _LIMIT, str(mark))
        shas, requirements = document["files"], document["requirements"]
        needed = parse_json(requirements.encode(), _LIMIT, REQUIREMENTS)
        is_whole = data == description(needed, requirements, shas)
        is_whole = is_whole and shas[REQUIREMENTS] == sha256(requirements.encode())
    except (OSError, LookupError, TypeError, AttributeError) as error:
        raise CorruptArtifactError(f"{mark} does not describe what is installed", path=str(provider)) from error
    if not is_whole:
        raise CorruptArtifactError(f"{mark} does not describe what is installed", path=str(provider))
    return {str(path): str(sha) for path, sha in shas.items()}
