"""A stand-in for torchvision, whose wheel fits no CPU torch: SGLang imports it, and a language model calls none of it.

Every name below it is a class of which every attribute is its own name.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

__version__ = "0.28.0"


class _AnyMeta(type):
    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Any(metaclass=_AnyMeta):
    """Stands for anything."""

    def __init__(self, *args: Any, **named: Any) -> None:
        return

    def __call__(self, *args: Any, **named: Any) -> _Any:
        return self


class _Module(types.ModuleType):
    def __getattr__(self, name: str) -> type[_Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Any


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not name.startswith("torchvision."):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing is in it."""


sys.meta_path.insert(0, _Finder())


def __getattr__(name: str) -> type[_Any]:
    """Stand for any name."""
    if name.startswith("__"):
        raise AttributeError(name)
    return _Any
