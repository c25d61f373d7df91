"""The source of a wheel that is not installed: modules as syntax trees, names and signatures in them."""

from __future__ import annotations

import ast
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class WheelSource:
    """One wheel."""

    path: Path

    @property
    def version(self) -> str:
        """The release, from the wheel's name."""
        return self.path.name.split("-")[1]

    def text_or_none(self, module: str) -> str | None:
        """The source of `package/module.py`, None where the wheel has none."""
        try:
            return self.text(module)
        except KeyError:
            return None

    def text(self, module: str) -> str:
        """The source of `package/module.py`. KeyError where the wheel has none."""
        return _text(self.path, module)

    def modules(self, *beginnings: str) -> tuple[str, ...]:
        """Every module whose path begins so."""
        names = zipfile.ZipFile(self.path).namelist()
        return tuple(name for name in names if name.startswith(beginnings) and name.endswith(".py"))

    def tree(self, module: str) -> ast.Module:
        """The same as a syntax tree."""
        return _parsed(self.path, module)

    def parameters(self, module: str, name: str) -> list[str] | None:
        """Parameter names of a function or of `Class.method`; None where it does not exist."""
        found = self.definition(module, name)
        if not isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
            return None
        return [argument.arg for argument in (*found.args.posonlyargs, *found.args.args)]

    def all_parameters(self, module: str, name: str) -> tuple[str, ...] | None:
        """Return every parameter name as `inspect.signature` lists them, None where the function does not exist.

        A classmethod's first parameter is left out, as it is for the bound method.
        """
        found = self.definition(module, name)
        if not isinstance(found, ast.FunctionDef):
            return None
        arguments = found.args
        names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
        names += [arguments.vararg.arg] if arguments.vararg else []
        names += [argument.arg for argument in arguments.kwonlyargs]
        names += [arguments.kwarg.arg] if arguments.kwarg else []
        decorators = {ast.unparse(decorator) for decorator in found.decorator_list}
        return tuple(names[1:] if "classmethod" in decorators else names)

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


@cache
def _text(wheel: Path, module: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(module).decode()


@cache
def _parsed(wheel: Path, module: str) -> ast.Module:
    return ast.parse(_text(wheel, module))
