"""Names what an adapter uses of an engine's source, and compares a release with it: functions, parameters, words.

A release that was read has a contract test that reads its wheel. One between two of them is read where it is installed,
before anything of it is used: without a difference it is served with a warning, else refused with every difference.
"""

from __future__ import annotations

import ast
import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ray_warmup.warmup.families.version_order import neighbours, order, plain

logger = logging.getLogger("ray_warmup")

Functions = Mapping[str, Mapping[str, tuple[str, ...]]]
"""File of the package -> dotted name -> parameters that can be given by position."""
ReadFile = Callable[[str], str | None]
"""Returns the source of a file of the package, None where it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineContract:
    """Everything that one adapter uses of its engine.

    A release that differs in nothing is one line of `versions`. What another one has otherwise stands in `changed`.
    """

    name: str
    """The engine's name for people."""
    package: str
    """Its import name."""
    versions: Mapping[str, str]
    """Releases that were read -> how they were tried."""
    functions: Functions
    words: Mapping[str, tuple[str, ...]]
    """File -> texts that stand in it: directories, variables and names that the adapter repeats."""
    changed: Mapping[str, Functions] = field(default_factory=dict)
    """Release -> functions that have other parameters in it."""

    absent: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    """Release -> words that it does not have."""

    def functions_of(self, version: str) -> Functions:
        """Return the functions of a release that was read."""
        other = self.changed.get(plain(version), {})
        return {file: {**names, **other.get(file, {})} for file, names in self.functions.items()}

    def differences(self, version: str, read: ReadFile) -> tuple[str, ...]:
        """Describe everything in a package that is not as it was read in a release."""
        found: list[str] = []
        for file, names in self.functions_of(version).items():
            source = read(file)
            if source is None:
                found.append(f"no {file}")
                continue
            tree = ast.parse(source)
            for name, expected in names.items():
                found += _difference(file, name, expected, parameters_of(tree, name))
        for file, words in self.words.items():
            source = read(file) or ""
            absent = self.absent.get(plain(version), {}).get(file, ())
            found += [f"{file} has no {word.strip()}" for word in words if word not in source and word not in absent]
        return tuple(found)

    def refusal(self, version: str, read: ReadFile | None = None) -> str:
        """Return the reason why a release is not served, or an empty text.

        Reads the installed package unless `read` is given, and only for a release between two that are known.
        """
        if plain(version) in self.versions:
            return ""
        before, after = neighbours(version, self.versions)
        if before is None or after is None:
            known = ", ".join(sorted(self.versions, key=order))
            return f"{self.name} {version} is not known to this version of ray-warmup, which knows {known}"
        reasons = []
        for neighbour in (before, after):
            differences = self.differences(neighbour, read or self.read_installed)
            if not differences:
                logger.warning(
                    "%s %s is not known; what is used of it is as in %s -> set RAY_WARMUP=off if it misbehaves",
                    self.name,
                    version,
                    neighbour,
                )
                return ""
            reasons.append(f"compared with {neighbour}: {'; '.join(differences)}")
        return f"{self.name} {version} is not known and differs in what is used of it ({'. '.join(reasons)})"

    def read_installed(self, file: str) -> str | None:
        """Return the source of a file of the installed package, without importing it."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            return None
        path = Path(spec.origin).parents[1] / file
        if not path.is_file():
            return None
        return path.read_text(encoding="utf-8")


def parameters_of(tree: ast.Module, name: str) -> tuple[str, ...] | None:
    """Return the parameters by position of a function or of `Class.method`, None where it does not exist."""
    body: list[ast.stmt] = tree.body
    found: ast.stmt | None = None
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    for part in name.split("."):
        found = next((node for node in body if isinstance(node, kinds) and node.name == part), None)
        if found is None:
            return None
        body = found.body if isinstance(found, kinds) else []
    if not isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    return tuple(argument.arg for argument in (*found.args.posonlyargs, *found.args.args))


def _difference(file: str, name: str, expected: tuple[str, ...], found: tuple[str, ...] | None) -> list[str]:
    if found == expected:
        return []
    if found is None:
        return [f"{file} has no {name}"]
    return [f"{name}({', '.join(found)}) instead of ({', '.join(expected)})"]
