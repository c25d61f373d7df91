"""Who imports whom: the contracts of `pyproject.toml`, each with planted offenders."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def linted(root: Path) -> subprocess.CompletedProcess[str]:
    """import-linter's verdict on a tree."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)


def layers_inside(package: str) -> list[str]:
    """Every package and loose module of a package, as its contract names them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (inside,) = (contract for contract in contracts if contract.get("containers") == [package])
    return [name for layer in inside["layers"] for name in layer.split(" | ")]


def packages_with_a_layer() -> list[str]:
    """Every folder that a contract names, below the import root."""
    found = [".", "scripts", "actors", "configs", "warmup"]
    for package in ("scripts", "actors", "warmup", "warmup/engines", "warmup/machine"):
        found += [f"{package}/{layer}" for layer in layers_inside(f"ray_warmup.{package.replace('/', '.')}")]
    return found


def test_imports_go_one_way() -> None:
    """scripts -> actors -> warmup -> configs, down the layers inside each, and Ray in none of the last two."""
    verdict = linted(ROOT)
    assert verdict.returncode == 0, verdict.stdout
    assert "Contracts: 7 kept, 0 broken" in verdict.stdout


@pytest.mark.parametrize(
    ("offender", "line"),
    [
        ("warmup/errors/bad.py", "import ray"),
        ("configs/bad.py", "import ray_warmup.warmup.errors"),
        ("actors/errors/bad.py", "import ray_warmup.scripts.cli"),
        ("actors/registry/bad.py", "import ray_warmup.actors.driver"),
        ("actors/cluster/bad.py", "def f():\n    from ray_warmup.actors import connection"),
        ("actors/processes/bad.py", "import ray_warmup.actors.registry"),
        ("actors/loose.py", ""),
        ("warmup/workloads/bad.py", "def f():\n    from ray_warmup.warmup import device"),
        ("warmup/machine/steps/bad.py", "import ray_warmup.warmup.device"),
        ("warmup/machine/machine/bad.py", "import ray_warmup.warmup.store"),
        ("warmup/machine/state/bad.py", "import ray_warmup.warmup.machine.failures"),
        ("warmup/machine/steps/bad.py", "def f():\n    from ray_warmup.warmup.machine.phases import lookup"),
        ("warmup/machine/loose.py", ""),
        ("warmup/monitor/bad.py", "import ray_warmup.warmup.engines"),
        ("warmup/engines/start/bad.py", "import ray_warmup.warmup.rank"),
        ("warmup/engines/plugin/bad.py", "import ray_warmup.warmup.engines.start"),
        ("warmup/engines/plugin/bad.py", "def f():\n    from ray_warmup.warmup.engines import launcher"),
        ("warmup/engines/plugin/bad.py", "import ray_warmup.warmup.engines.front_end"),
        ("warmup/engines/vllm/bad.py", "import ray_warmup.warmup.engines.sglang"),
        ("warmup/engines/machine/bad.py", "import ray_warmup.warmup.engines.artifacts"),
        ("warmup/engines/tuning/bad.py", "import ray_warmup.warmup.engines.vllm"),
        ("warmup/engines/loose.py", ""),
        ("warmup/device/bad.py", "import ray_warmup.warmup.engines"),
        ("warmup/artifact/bad.py", "import ray_warmup.warmup.store"),
        ("warmup/disk/bad.py", "import ray_warmup.warmup.artifact"),
        ("warmup/messages/bad.py", "import ray_warmup.warmup.machine"),
        ("warmup/loose.py", ""),
        ("scripts/views/bad.py", "def f():\n    from ray_warmup.scripts.commands import cache"),
        ("scripts/reports/bad.py", "import ray_warmup.scripts.commands"),
        ("scripts/terminal/bad.py", "import ray_warmup.scripts.views"),
        ("scripts/loose.py", ""),
    ],
)
def test_the_import_contracts_find_an_offender(tmp_path: Path, offender: str, line: str) -> None:
    """A planted import the wrong way breaks a contract, in a function too, and so does a module without a layer."""
    for name in packages_with_a_layer():
        path = tmp_path / "ray_warmup" / name
        path.mkdir(exist_ok=True, parents=True)
        (path / "__init__.py").touch()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert linted(tmp_path).returncode == 0
    (tmp_path / "ray_warmup" / offender).write_text(line + "\n")
    verdict = linted(tmp_path)
    assert verdict.returncode == 1
    assert "1 broken" in verdict.stdout
