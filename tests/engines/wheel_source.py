"""The source of a wheel that is not installed: modules as syntax trees, names and signatures in them."""

from __future__ import annotations

import ast
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class WheelSource:
    """One wheel."""

    path: Path

    @cached_property
    def archive(self) -> zipfile.ZipFile:
        """The opened wheel."""
        return zipfile.ZipFile(self.path)

    def text(self, module: str) -> str:
        """The source of `package/module.py`. KeyError where the wheel has none."""
        return self.archive.read(module).decode()

    def tree(self, module: str) -> ast.Module:
        """The same as a syntax tree."""
        return ast.parse(self.text(module))

    def parameters(self, module: str, name: str) -> list[str] | None:
        """Parameter names of a function or of `Class.method`; None where it does not exist."""
        found = self.definition(module, name)
        if not isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
            return None
        return [argument.arg for argument in (*found.args.posonlyargs, *found.args.args)]

    def definition(self, module: str, name: str) -> ast.stmt | None:
        """A function or class of a module by its dotted name."""
        body: list[ast.stmt] = self.tree(module).body
        found: ast.stmt | None = None
        for part in name.split("."):
            kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            found = next((node for node in body if isinstance(node, kinds) and node.name == part), None)
            if found is None:
                return None
            body = found.body
        return found
