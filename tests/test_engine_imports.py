"""An engine's process needs little of us: numpy, pydantic and PyYAML at most, for `apply`, `monitor` and the plugin."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ray_warmup.warmup.artifact.fingerprint import METADATA_FIELDS
from ray_warmup.warmup.artifact.table import Entry, TunedTable
from ray_warmup.warmup.store.node_store import NodeStore
from tests.artifacts import KEY_SHA256, file_key, make_artifact

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = ("ray_warmup", "numpy", "pydantic", "yaml")
OF_THOSE = ("pydantic_core", "annotated_types", "typing_extensions", "typing_inspection", "_yaml")
"""Packages that the allowed ones import themselves."""


def modules_of(folder: str) -> list[str]:
    """Names by which the modules of a folder are imported."""
    found = sorted((ROOT / folder).glob("*.py"))
    return [".".join(("ray_warmup", *path.relative_to(ROOT).with_suffix("").parts)) for path in found]


IN_AN_ENGINE = (
    "from ray_warmup import apply, monitor",
    "import ray_warmup.warmup.engines.vllm.plugin, ray_warmup.warmup.engines.vllm.hooks",
    "import ray_warmup.warmup.engines.vllm.process, ray_warmup.warmup.engines.plugin.process",
    "import ray_warmup.warmup.engines.sglang.plugin, ray_warmup.warmup.engines.sglang.hooks",
    "import ray_warmup.warmup.engines.sglang.process",
    "import " + ", ".join(modules_of("warmup/engines/plugin")),
)
"""Imports of an engine's process."""
# `org` is what Python's own `pickle` tries to import, for Jython.
ALONE = """
import json, sys
sys.path[:0] = [sys.argv[2]]
allowed, refused = set(json.loads(sys.argv[1])), []
class Refusing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        of_python = top in sys.stdlib_module_names or top == "org" or top.startswith("_sysconfigdata")
        if top not in allowed and not of_python:
            refused.append(name)
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)
sys.meta_path.insert(0, Refusing())
failed = ""
try:
    exec(sys.argv[3])
except ImportError as error:
    failed = str(error)
print(json.dumps({"refused": refused, "failed": failed}))
"""


def alone(code: str, more: Path | None = None) -> dict[str, object]:
    """Outcome of running code in a process in which nothing but the allowed packages is installed."""
    command = [sys.executable, "-c", ALONE, json.dumps([*ALLOWED, *OF_THOSE, "planted"]), str(more or ROOT), code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("code", IN_AN_ENGINE)
def test_what_an_engine_imports_needs_three_packages(code: str) -> None:
    """Nothing else is even asked for while these are imported."""
    assert alone(code) == {"refused": [], "failed": ""}


def test_a_table_is_found_checked_and_held_with_them_alone(tmp_path: Path) -> None:
    """What `apply` does before FlashInfer is asked: read the store's table, check it, hold its generation."""
    store = NodeStore(tmp_path / KEY_SHA256)
    table = TunedTable(dict.fromkeys(METADATA_FIELDS, "1"), {file_key(): Entry("Fast", 1)}, {}).to_bytes()
    store.publish(make_artifact(table=table))
    code = (
        "from pathlib import Path\n"
        "import ray_warmup.warmup.apply_table\n"
        "from ray_warmup.warmup.store.table_at import read_table_at\n"
        "from ray_warmup.warmup.store.table_lease import hold_table_at\n"
        f"path = Path({str(store.table_path)!r})\n"
        "found = read_table_at(path)\n"
        "assert hold_table_at(path, found.data).generation == 1\n"
    )
    assert alone(code) == {"refused": [], "failed": ""}


@pytest.mark.parametrize("package", ["typer", "ray", "zstandard", "torch"])
def test_a_planted_import_is_found(tmp_path: Path, package: str) -> None:
    """A module that imports another package at its top, or tries to, is named."""
    (tmp_path / "planted.py").write_text(f"try:\n    import {package}\nexcept ImportError:\n    pass\n")
    assert alone("import planted", tmp_path)["refused"] == [package]
