"""Rules about the tree itself: what is imported, sizes, names, errors that travel, quick starts.

Every rule that scans has a planted offender that it must find.
"""

from __future__ import annotations

import ast
import functools
import importlib
import json
import pickle
import re
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ray_warmup.configs import VERSION
from ray_warmup.configs.model import presets
from ray_warmup.warmup.errors import WarmupError

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("configs", "warmup", "actors", "scripts")
HEAVY = ("torch", "flashinfer", "ray", "triton")
HEAVY_PACKAGES = ("device", "workloads", "engines", "caches", "families.library")
"""Packages and one module of warmup/ that may import heavy libraries when they are imported."""
TEMPLATES = {"warmup/caches/provider_shim.py"}
"""Copied elsewhere before it runs; cannot be imported from here."""
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60


def sources(*folders: str, root: Path = ROOT) -> Iterator[Path]:
    """Every Python file of these folders."""
    for folder in folders:
        yield from sorted((root / folder).rglob("*.py"))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """What a file says; read once for all tests."""
    return ast.parse(path.read_text())


IMPORTER = """
import importlib, json, sys
heavy, offenders = sys.argv[2].split(","), {}
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
    if found := [library for library in heavy if library in sys.modules]:
        offenders[name] = found
        break
print(json.dumps(offenders))
"""


def heavy_imports(names: list[str], cwd: Path = ROOT, heavy: Sequence[str] = HEAVY) -> dict[str, list[str]]:
    """The first of these modules that loads a heavy library, and which."""
    command = [sys.executable, "-c", IMPORTER, json.dumps(names), ",".join(heavy)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def pure_modules() -> list[str]:
    """Everything in configs/, and in warmup/ outside HEAVY_PACKAGES."""
    paths = [path.relative_to(ROOT) for path in sources("configs", "warmup")]
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]
    names = [f"ray_warmup.{name}" for name in names]
    return [
        name for name in names if not any(name.startswith(f"ray_warmup.warmup.{package}") for package in HEAVY_PACKAGES)
    ]


def test_pure_modules_stay_light(tmp_path: Path) -> None:
    """configs/ and the pure part of warmup/ load neither torch, FlashInfer, Ray nor Triton; a planted one is found."""
    names = pure_modules()
    expected = (
        "ray_warmup.configs.schema",
        "ray_warmup.warmup.artifact.table",
        "ray_warmup.warmup.store.node_store",
        "ray_warmup.warmup.machine.machine",
        "ray_warmup.warmup.rank.process",
    )
    assert set(expected) <= set(names)
    assert heavy_imports(names) == {}
    (tmp_path / "planted.py").write_text("import triton\n")
    (tmp_path / "triton.py").touch()
    assert heavy_imports(["planted"], tmp_path) == {"planted": ["triton"]}


def test_the_coordinator_loads_only_what_it_needs() -> None:
    """Every run waits for its import: neither numpy nor what a rank or an engine is made of; a rank's is found."""
    heavy = ("numpy", "ray_warmup.warmup.rank.process", "ray_warmup.warmup.engines.builtin.warmups.spec")
    assert heavy_imports(["ray_warmup.actors.run.coordinator"], heavy=heavy) == {}
    assert heavy_imports(["ray_warmup.warmup.rank.process"], heavy=heavy) == {
        "ray_warmup.warmup.rank.process": ["ray_warmup.warmup.rank.process"]
    }


def cpu_seconds(*arguments: str) -> float:
    """What a Python process takes; the waiting for others is not in it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def is_within(limit: float, *arguments: str, tries: int = 9) -> bool:
    """Whether a process takes less CPU seconds, in one of some tries.

    The limit is for a machine on which importing pydantic and PyYAML takes 0.15 s; on a slower one, as one becomes
    with a neighbour on the same core, it is scaled by what that takes just before.
    """
    for _ in range(tries):
        slowness = max(1.0, cpu_seconds("-c", "import pydantic.main, yaml") / 0.15)
        if cpu_seconds(*arguments) < limit * slowness:
            return True
    return False


def test_importing_configs_is_quick() -> None:
    """Importing the schema and its loader takes less than 0.3 s; one that does it three times is seen."""
    assert is_within(0.3, "-c", "import ray_warmup.configs.loader")
    once = "subprocess.run([sys.executable, '-c', 'import ray_warmup.configs.loader'])"
    thrice = f"import subprocess, sys; [{once} for _ in range(3)]"
    assert not is_within(0.3, "-c", thrice, tries=3)


def test_help_is_quick() -> None:
    """`ray-warmup --help` takes less than 1 s."""
    assert is_within(1.0, "-m", "ray_warmup.scripts.cli", "--help")


def environment_readers(tree: ast.AST) -> list[int]:
    """Lines that touch the process environment."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "putenv", "unsetenv"):
            lines.append(node.lineno)
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            lines += [node.lineno for name in node.names if "env" in name.name]
    return lines


def test_one_module_reads_the_environment() -> None:
    """os.environ is touched in configs/env.py alone, apart from templates that run outside and bench scripts."""
    readers = {
        str(path.relative_to(ROOT))
        for path in sources(*PACKAGES)
        if environment_readers(tree_of(path)) and not path.name.startswith("bench_")
    }
    assert readers - TEMPLATES == {"configs/env.py"}
    assert environment_readers(ast.parse("from os import getenv\nimport os\nos.environ['A']\nos.getenv('A')")) == [
        1,
        3,
        4,
    ]


def lockers(tree: ast.AST) -> list[int]:
    """Lines that ask for a file lock."""
    names = {"flock", "lockf", "F_SETLK", "F_SETLKW", "F_OFD_SETLK"}
    return [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in names) or (isinstance(node, ast.Name) and node.id in names)
    ]


def test_nothing_relies_on_file_locks() -> None:
    """A shared file system may have none that work: one module asks for one and goes on without; planted are found."""
    found = [path for path in sources(*PACKAGES) if lockers(tree_of(path))]
    assert found == [ROOT / "warmup" / "disk" / "shared_lock.py"]
    assert lockers(ast.parse("import fcntl\nfcntl.flock(3, 2)\nfcntl.lockf(3, 2)")) == [2, 3]


def too_long(path: Path) -> list[str]:
    """What in a file is past the limits."""
    text = path.read_text()
    found = [f"{path}: {text.count(chr(10))} lines"] if text.count("\n") > MAX_FILE_LINES else []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                found.append(f"{path}: {node.name} has {length} lines")
    return found


def test_files_and_functions_are_short(tmp_path: Path) -> None:
    """No file is past 400 lines, no function past 60; planted ones are found."""
    assert [row for path in sources(*PACKAGES, "tests") for row in too_long(path)] == []
    planted = tmp_path / "long.py"
    planted.write_text("def f():\n" + "    a = 1\n" * 60 + "\n" * 340)
    assert len(too_long(planted)) == 2


def test_no_module_has_a_name_that_says_nothing() -> None:
    """No utils, helpers, manager or common anywhere."""
    names = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
    assert [path for path in sources(*PACKAGES, "tests") if path.stem in names] == []


def test_every_module_says_what_it_owns() -> None:
    """Every module of the packages begins with a docstring."""
    bare = [p for p in sources(*PACKAGES) if p.read_text().strip() and ast.get_docstring(tree_of(p)) is None]
    assert bare == []


def test_every_test_states_its_claim() -> None:
    """Every test function has a docstring."""
    bare = [
        f"{path.relative_to(ROOT)}:{node.name}"
        for path in sources("tests")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and path.name.startswith("test_")
        and ast.get_docstring(node) is None
    ]
    assert bare == []


def test_no_script_shadows_a_package() -> None:
    """`python scripts/x.py` puts scripts/ first on the path, so nothing there may be called like a package."""
    assert not {path.stem for path in (ROOT / "scripts").iterdir()} & {*PACKAGES, "tests"}


@pytest.mark.parametrize("module", ["ray_warmup.warmup.errors", "ray_warmup.actors.errors"])
def test_every_error_travels(module: str) -> None:
    """Each class comes back from pickling with its message and details; both modules define the tree they show."""
    found = importlib.import_module(module)
    kinds = [k for k in vars(found).values() if isinstance(k, type) and issubclass(k, WarmupError)]
    assert len(kinds) >= 6
    for kind in kinds:
        error = pickle.loads(pickle.dumps(kind("what failed", rank=3, node="ab12", late_s=1.5)))
        assert type(error) is kind
        assert str(error) == error.message == "what failed"
        assert error.details == {"rank": 3, "node": "ab12", "late_s": 1.5}
        assert kind.__name__ in (found.__doc__ or "")
        assert kind.__doc__


def test_an_error_that_loses_its_details_is_noticed() -> None:
    """The check above fails for a class whose attributes do not survive."""
    error = pickle.loads(pickle.dumps(LossyError("what failed", rank=3)))
    assert error.details != {"rank": 3}


class LossyError(WarmupError):
    """Pickles like a plain exception: the planted offender."""

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message,)


def test_the_changelog_has_this_version() -> None:
    """The newest entry of CHANGELOG.md is `ray_warmup.configs.VERSION`."""
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == VERSION


def test_what_is_shipped_is_there() -> None:
    """The type marker, recipes, model presets and JSON schemas that pyproject.toml names exist."""
    assert (ROOT / "ray_warmup" / "py.typed").is_file()
    assert {"report.schema.json", "manifest.schema.json"} <= {p.name for p in (ROOT / "warmup" / "schemas").iterdir()}
    assert list((ROOT / "configs" / "recipes").glob("*.yaml"))
    assert {"qwen3-0.6b", "deepseek-v3"} <= set(presets())


LOOSE_DICT = re.compile(r"(?:dict|Mapping|MutableMapping)\[str, (?:Any|object)\]")
LOOSE_DICTS = 29
"""Lines of the product with one, each at a border (a file, the wire, another project's API) with its reason beside it.

The number only goes down.
"""


def string_keys(tree: ast.AST) -> int:
    """Count accesses by a literal text."""
    found = 0
    for node in ast.walk(tree):
        is_item = isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)
        is_get = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get"
        if (is_item and isinstance(node.slice.value, str)) or (
            is_get and node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
        ):
            found += 1
    return found


def test_machine_and_ranks_hold_values() -> None:
    """Messages are read by attribute, which mypy checks; planted accesses by text are found."""
    paths = sources("warmup/machine", "warmup/rank", "warmup/messages")
    found = {str(path.relative_to(ROOT)): string_keys(tree_of(path)) for path in paths}
    assert {name: count for name, count in found.items() if count} == {}
    assert string_keys(ast.parse('a["digest"]; b.get("hit", 1); a[0]; c.get(name)')) == 2


def loose_dictionaries(text: str) -> list[int]:
    """Lines on which a dictionary of anything is named."""
    return [number for number, line in enumerate(text.splitlines(), 1) if LOOSE_DICT.search(line)]


def test_loose_dictionaries_become_fewer() -> None:
    """What has fields is a dataclass; a dictionary of anything is for a border. Planted ones are found."""
    found = [f"{path}:{line}" for path in sources(*PACKAGES) for line in loose_dictionaries(path.read_text())]
    assert len(found) <= LOOSE_DICTS, "\n".join(found)
    planted = "a: dict[str, Any]\nb: dict[str, int]\nc: Mapping[str, object]\nd: dict[str, JsonValue]"
    assert loose_dictionaries(planted) == [1, 3]


def test_every_loose_dictionary_has_its_reason() -> None:
    """The line, or the one above it, says which border it is."""
    bare = []
    for path in sources(*PACKAGES):
        lines = ["", *path.read_text().splitlines()]
        for number in loose_dictionaries(path.read_text()):
            if not any("border" in line for line in lines[max(0, number - 3) : number + 1]):
                bare.append(f"{path.relative_to(ROOT)}:{number}")
    assert bare == []
