"""Module that ray-warmup generates to make FlashInfer find compiled modules.

An installed package of this name stays in effect.

Copied as `flashinfer_jit_cache/__init__.py` into a provider directory; runs there alone, with the standard library.
"""

import functools
import importlib.machinery
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

_NAME = "flashinfer_jit_cache"
_HERE = Path(__file__).resolve().parent
_MARK = "provider.json"


def _load_installed(version: str) -> ModuleType | None:
    """Load the installed package of this name further down the path.

    None if it is absent or of another version.
    """
    path = [entry for entry in sys.path if not (Path(entry or ".") / _NAME / _MARK).is_file()]
    spec = importlib.machinery.PathFinder.find_spec(_NAME, path)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    ours = sys.modules.get(_NAME)
    sys.modules[_NAME] = module
    try:
        spec.loader.exec_module(module)
    finally:
        if ours is None:
            sys.modules.pop(_NAME, None)
        else:
            sys.modules[_NAME] = ours
    if module.__version__.split("+")[0] != version.split("+")[0]:
        return None
    return module


@functools.cache
def _found() -> tuple[Any, ModuleType | None, str]:
    """Return this directory's description, an installed package, and the version for FlashInfer's check."""
    document = json.loads((_HERE / _MARK).read_text(encoding="utf-8"))
    installed = _load_installed(document["version"])
    return document, installed, document["version"] if installed is None else installed.__version__


def __getattr__(name: str) -> str:
    if name == "__version__":
        return _found()[2]
    raise AttributeError(name)


def get_jit_cache_providers() -> tuple[SimpleNamespace, ...]:
    """Our modules, then those of an installed package."""
    document, installed, version = _found()
    ours = SimpleNamespace(
        provider_id="ray-warmup",
        distribution="ray-warmup",
        version=version,
        jit_cache_dir=str(_HERE / "modules"),
        cuda_architectures=tuple(document["cuda_architectures"]),
        modules=tuple(document["modules"]),
    )
    others = () if installed is None else tuple(installed.get_jit_cache_providers())
    return (ours, *others)


def get_jit_cache_dir() -> str:
    """The one directory that a FlashInfer before 0.7 asks for: an installed package's, which has every module."""
    installed = _found()[1]
    if installed is None:
        return str(_HERE / "modules")
    return str(installed.get_jit_cache_dir())
