"""The documents say what is there: paths, commands, options, configuration, figures, and the absences they promise."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from pydantic_core import PydanticUndefined

from ray_warmup.configs import ConfigError
from ray_warmup.configs.loader import load_request
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.scripts.cli import ORDER, app

ROOT = Path(__file__).resolve().parents[1]
DOCS = ("README.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md", "RUNBOOK.md", "configs/README.md")
FOLDERS = ("configs", "warmup", "actors", "scripts", "tests")
PATH = re.compile(rf"`((?:\./)?(?:{'|'.join(FOLDERS)})/[\w./-]+|[\w./-]+\.(?:py|md|txt|toml)|\.ci/run)`")
COMMAND = re.compile(r"ray-warmup((?: [\w-]+| --[\w-]+)+)")
PACKAGES_OF_ACTORS = tuple(sorted(path.parent.name for path in (ROOT / "actors").glob("*/__init__.py")))
UNPICKLERS = {"load", "loads", "Unpickler"}
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve"}


def missing_paths(text: str) -> list[str]:
    """Paths in backticks that are nowhere in the tree; a bare file name may lie in any folder."""
    known = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    return [p for p in PATH.findall(text) if not (ROOT / p).exists() and ("/" in p or p not in known)]


@pytest.mark.parametrize("name", DOCS)
def test_paths_in_the_documents_exist(name: str) -> None:
    """Every file or folder that a document names is there; an invented one is found."""
    assert missing_paths((ROOT / name).read_text()) == []
    assert missing_paths("see `warmup/nowhere.py`, `nowhere.py` and `warmup/store/node_store.py`") == [
        "warmup/nowhere.py",
        "nowhere.py",
    ]


def wrong_commands(text: str) -> list[str]:
    """`ray-warmup ...` whose subcommand or options do not exist."""
    root = typer.main.get_command(app)
    return [found.strip() for found in COMMAND.findall(text) if not is_command(root, shlex.split(found))]


def is_command(command: click.Command, words: list[str]) -> bool:
    """Whether these words are subcommands and options; what follows the last subcommand may be arguments."""
    subcommands = getattr(command, "commands", None)
    if subcommands is not None and words and not words[0].startswith("-"):
        return words[0] in subcommands and is_command(subcommands[words[0]], words[1:])
    options = {"--help"} | {option for parameter in command.params for option in parameter.opts}
    return all(word in options for word in words if word.startswith("--"))


def missing_from_tree(text: str) -> list[str]:
    """Names at the beginning of a line of the drawn tree that are not there, below the last top-level folder."""
    missing, folder = [], ROOT
    for indent, names in re.findall(r"^ {4}( *)((?:[\w/]+(?:/|\.py)(?:, )?)+)(?= |$)", text, re.MULTILINE):
        folder = folder if indent else ROOT
        missing += [name for name in names.strip(", ").split(", ") if not (folder / name).exists()]
        folder = folder if indent else ROOT / names.strip(", ")
    return missing


def undrawn_packages(text: str, top: str) -> list[str]:
    """Packages of warmup/, actors/ or scripts/ without a line of their own below that folder in the drawn tree."""
    below = text.split(f"\n    {top}/ ")[1]
    drawn = re.findall(r"^ {6}([\w/]+)/ ", re.split(r"\n {4}\w", below)[0], re.MULTILINE)
    packages = [path.parent.relative_to(ROOT / top) for path in (ROOT / top).rglob("__init__.py")]
    return sorted(str(package) for package in packages if package.parts and str(package) not in drawn)


def test_the_drawn_tree_is_the_tree() -> None:
    """Every file and folder of the drawn tree exists, and every package of three is drawn; offenders are found."""
    drawn = (ROOT / "ARCHITECTURE.md").read_text().split("## The tree")[1].split("\n## ")[0]
    assert "      machine/ " in drawn
    assert missing_from_tree(drawn) == []
    assert missing_from_tree("    warmup/   x\n      store/, nowhere.py  y\n    gone/  z") == ["nowhere.py", "gone/"]
    for top in ("warmup", "actors", "scripts"):
        assert undrawn_packages(drawn, top) == []
    assert undrawn_packages(drawn.replace("      store/ ", "      shop/ "), "warmup") == ["store"]
    assert undrawn_packages(drawn.replace("      stores/ ", "      shops/ "), "actors") == ["stores"]
    assert undrawn_packages(drawn.replace("      views/ ", "      sights/ "), "scripts") == ["views"]


@pytest.mark.parametrize("name", DOCS)
def test_commands_in_the_documents_exist(name: str) -> None:
    """Every `ray-warmup` subcommand and option that a document shows is there; invented ones are found."""
    quoted = "\n".join(re.findall(r"`[^`\n]+`|^ {4}.*$", (ROOT / name).read_text(), re.MULTILINE))
    assert wrong_commands(quoted) == []
    assert wrong_commands("`ray-warmup fly`, `ray-warmup run --fast`, `ray-warmup run --retune`") == [
        "fly",
        "run --fast",
    ]


def test_the_readme_lists_every_command_in_the_order_of_help() -> None:
    """One table, a row each."""
    table = (ROOT / "README.md").read_text().split("| command | what it does |\n|---|---|\n")[1].split("\n\n")[0]
    assert re.findall(r"^\| `ray-warmup (\w+)", table, re.MULTILINE) == list(ORDER)


def documented_fields(text: str, section: str) -> dict[str, str]:
    """Field -> default of one configuration table."""
    head = f"| {section} | default | |\n|---|---|---|\n"
    assert head in text, f"no table for {section}"
    rows = text.split(head)[1].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {row[0].strip("`"): row[1] for row in cells}


def actual_fields(section: str) -> dict[str, str]:
    """Field -> default as the reference writes defaults."""
    model = WarmupConfig.model_fields[section].annotation
    assert model is not None
    return {name: written(name, field.get_default(call_default_factory=True)) for name, field in fields_of(model)}


def fields_of(model: type) -> Iterator[tuple[str, object]]:
    """Name and pydantic field."""
    yield from model.model_fields.items()  # type: ignore[attr-defined]


def written(name: str, default: object) -> str:
    """A default as the reference writes it."""
    if default is PydanticUndefined:
        return "required"
    if name.endswith("_mode"):
        return f"{default:04o}"
    plain = {None: "-", True: "true", False: "false"}
    if isinstance(default, dict):
        return "{}"
    if isinstance(default, tuple):
        return f"[{', '.join(map(str, default))}]"
    return plain[default] if default is None or isinstance(default, bool) else str(default)


@pytest.mark.parametrize("section", ["cluster", "model", "autotune", "guard", "engine", "cache"])
def test_the_configuration_tables_are_the_schema(section: str) -> None:
    """Every field with its default, in the schema's order, and no other."""
    documented = documented_fields((ROOT / "configs/README.md").read_text(), section)
    assert list(documented.items()) == list(actual_fields(section).items())


def test_the_timeouts_are_the_schema() -> None:
    """The reference's deadlines are the defaults."""
    text = (ROOT / "configs/README.md").read_text().split("`timeouts` (seconds")[1].split("Environment variables")[0]
    documented = dict(re.findall(r"`(\w+)` (\d+|-)", text))
    assert documented == {name: value.removesuffix(".0") for name, value in actual_fields("timeouts").items()}


def test_the_configs_in_the_readme_are_read(tmp_path: Path) -> None:
    """Every YAML that the README shows is a config that is accepted; one with a mistyped field is not."""
    found = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found
    for text in found:
        (tmp_path / "shown.yaml").write_text(text)
        load_request(tmp_path / "shown.yaml")
    (tmp_path / "shown.yaml").write_text(text.replace("cluster:", "cluste:"))
    with pytest.raises(ConfigError):
        load_request(tmp_path / "shown.yaml")


def unknown_figures(text: str, results: str) -> list[str]:
    """Table rows whose label stands in the results, but with other figures."""
    known = {row.split("|")[1].strip(): numbers(row) for row in results.splitlines() if row.startswith("| ")}
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    labelled = [(row.split("|")[1].strip(), row) for row in rows]
    return [row for label, row in labelled if label in known and not set(numbers(row)) <= set(known[label])]


def numbers(row: str) -> list[str]:
    """The figures of a table row."""
    return re.findall(r"\d+\.\d+", row)


def test_the_figures_are_those_of_the_results() -> None:
    """Rows of the README's GPU table hold figures of the committed result only; a changed one is found."""
    text = (ROOT / "README.md").read_text()
    results = (ROOT / "tests/gpu/results/bench_warmup.md").read_text()
    assert "| fp8 sharded cold |" in text
    assert unknown_figures(text, results) == []
    assert unknown_figures("| fp8 hit | 1.5 |", results) == ["| fp8 hit | 1.5 |"]


def offences(tree: ast.AST) -> list[str]:
    """Unpickling, and torch.distributed, in a module."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("torch.distributed")]
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = {alias.name for alias in node.names}
            if node.module.startswith("torch.distributed") or (node.module == "torch" and "distributed" in names):
                found.append("torch.distributed")
            if node.module in UNSAFE_MODULES and names & UNPICKLERS:
                found.append(node.module)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in UNSAFE_MODULES and node.attr in UNPICKLERS:
                found.append(f"{node.value.id}.{node.attr}")
            if node.value.id == "torch" and node.attr in ("load", "distributed"):
                found.append(f"torch.{node.attr}")
    return found


WITH_A_MAP = (
    *("warmup/machine/failures", "warmup/machine/phases", "warmup/machine/reports"),
    *("warmup/machine/state", "warmup/machine/steps"),
    *("actors", *(f"actors/{package}" for package in PACKAGES_OF_ACTORS)),
    *("scripts", "scripts/commands", "scripts/reports", "scripts/terminal", "scripts/views"),
    *("warmup/device", "warmup/machine", "warmup/messages", "warmup/rank"),
)
"""Packages whose docstring says which module does what, in indented lines: names, two spaces, text."""


def stems(package: Path) -> set[str]:
    """Names of a package's modules and of the packages in it."""
    packages = {path.parent.name for path in package.glob("*/__init__.py")}
    return packages | {path.stem for path in package.glob("*.py")} - {"__init__"}


def mapped(package: Path) -> tuple[set[str], set[str]]:
    """Names in the first column of a package's map, and all words of the map."""
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text()), clean=False) or ""
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    first = {name.removesuffix(".py") for line in lines for name in line.split("  ")[0].split(", ")}
    return first, set(re.findall(r"\w+", " ".join(lines)))


@pytest.mark.parametrize("name", WITH_A_MAP)
def test_the_map_of_a_package_names_its_modules(name: str) -> None:
    """Every module is in its package's map, and everything that the map names is there."""
    first, words = mapped(ROOT / name)
    assert stems(ROOT / name) - words == set()
    assert first - stems(ROOT / name) == set()


def test_a_gap_in_a_map_is_found(tmp_path: Path) -> None:
    """A module that the map leaves out and one that is gone are both seen."""
    (tmp_path / "__init__.py").write_text('"""A package.\n\n    here, gone   two modules\n"""')
    for module in ("here", "forgotten"):
        (tmp_path / f"{module}.py").touch()
    first, words = mapped(tmp_path)
    assert (first - stems(tmp_path), stems(tmp_path) - words) == ({"gone"}, {"forgotten"})


def test_nothing_is_unpickled_and_no_collective_is_used() -> None:
    """warmup/, configs/ and actors/ neither unpickle nor touch torch.distributed; planted offenders are found."""
    files = [path for folder in ("configs", "warmup", "actors") for path in (ROOT / folder).rglob("*.py")]
    assert {str(path): found for path in files if (found := offences(ast.parse(path.read_text())))} == {}
    planted = "import pickle, torch\npickle.loads(b'')\ntorch.load('x')\nfrom torch import distributed"
    assert offences(ast.parse(planted)) == ["torch.distributed", "pickle.loads", "torch.load"]


SUMMARY_CHARS = 160
NOT_A_SUMMARY = re.compile(r"(What|Who|Whether|Which|Where)\b")
SUMMARIES_TO_REWRITE = 0
"""Docstrings that break `is_summary` today. The number only goes down."""


def is_summary(paragraph: str) -> bool:
    """Whether a docstring's first paragraph is one short clause: a verb and its object, or a noun for a value."""
    return ";" not in paragraph and len(paragraph) <= SUMMARY_CHARS and NOT_A_SUMMARY.match(paragraph) is None


def poor_summaries(tree: ast.AST) -> list[str]:
    """Names of modules (''), classes and functions whose docstring does not begin with a summary."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    documented = [(node, ast.get_docstring(node) or "") for node in ast.walk(tree) if isinstance(node, kinds)]
    summaries = [(getattr(node, "name", ""), text.split("\n\n")[0].replace("\n", " ")) for node, text in documented]
    return [name for name, summary in summaries if not is_summary(summary)]


def test_docstrings_begin_with_a_summary() -> None:
    """No more docstrings than are allowed begin with anything but one clause; planted offenders are found."""
    files = [path for folder in FOLDERS if folder != "tests" for path in (ROOT / folder).rglob("*.py")]
    found = [
        f"{path.relative_to(ROOT)}:{name}" for path in files for name in poor_summaries(ast.parse(path.read_text()))
    ]
    assert len(found) <= SUMMARIES_TO_REWRITE, "\n".join(found)
    planted = (
        '"""What is kept."""\nclass A:\n    """A table."""\n    def f(self):\n        """Load it; save it."""\n'
        f'def g():\n    """{"Long. " * 30}"""\ndef h():\n    """Return a table.\n\n    Keys; values."""\n'
    )
    assert poor_summaries(ast.parse(planted)) == ["", "g", "f"]
