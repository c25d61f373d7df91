"""The wheel installs one package, runs where nothing else of the repository is, and meets no application's folders."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from ray_warmup.configs import VERSION
from tests.artifacts import ROOT
from tests.engines.resolve import build_sdist, build_wheel, wheel_of
from tests.unit.warmup.artifact.test_table import content, encode

FOLDERS = ("actors", "configs", "scripts", "warmup")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the tree, so that the build leaves nothing in it."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bin directory with the wheel and the libraries of this environment, but without this repository."""
    directory = tmp_path_factory.mktemp("installed")
    venv.create(directory, with_pip=False, symlinks=True)
    site = next((directory / "lib").glob("python*/site-packages"))
    (site / "libraries.pth").write_text("\n".join(libraries()) + "\n")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    script = directory / "bin" / "ray-warmup"
    script.write_text(
        f"#!{directory}/bin/python\nimport sys\nfrom ray_warmup.scripts.cli import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    return directory / "bin"


def run(binaries: Path, cwd: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """One command of the installed package."""
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    environ |= {"PATH": f"{binaries}:{environ['PATH']}"} | variables
    return subprocess.run(
        [str(binaries / words[0]), *words[1:]], cwd=cwd, env=environ, capture_output=True, text=True, check=False
    )


def test_the_wheel_holds_one_package(wheel: Path) -> None:
    """Everything lies below `ray_warmup/`, with what is read at run time, and without tests or benchmarks."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"ray_warmup"}
    assert {
        "ray_warmup/py.typed",
        "ray_warmup/configs/recipes/cpu_two_nodes.yaml",
        "ray_warmup/configs/models/qwen3-0.6b.json",
        "ray_warmup/warmup/schemas/manifest.schema.json",
        "ray_warmup/warmup/engines/vllm/plugin.py",
        "ray_warmup/scripts/page/report.html",
        "ray_warmup/scripts/page/vendor/tabulator.min.js",
        "ray_warmup/scripts/page/vendor/LICENSES.md",
        "ray_warmup/warmup/engines/sglang/plugin.py",
    } <= set(names)
    assert [name for name in names if "bench" in name or "chaos" in name] == []


@pytest.mark.long
def test_the_source_archive_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """The same files with the same bytes, and its licence; pip installs that wheel into an empty environment."""
    archive = build_sdist(tmp_path)
    wheel_of(archive, tmp_path)
    again = next(tmp_path.glob("ray_warmup-*.whl"))
    assert archive.name == f"ray_warmup-{VERSION}.tar.gz"
    assert contents(again) == contents(wheel)
    with tarfile.open(archive) as members:
        assert f"ray_warmup-{VERSION}/LICENSE" in members.getnames()
    clean = tmp_path / "clean"
    venv.create(clean, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(clean / "bin/python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, str(again)], check=True, cwd=tmp_path)
    (next((clean / "lib").glob("python*/site-packages")) / "libraries.pth").write_text("\n".join(libraries()) + "\n")
    done = run(clean / "bin", tmp_path, "ray-warmup", "--version")
    assert (done.returncode, done.stdout.strip()) == (0, VERSION), done.stderr


@pytest.mark.long
def test_a_clean_environment_gets_everything_by_pip(wheel: Path, tmp_path: Path) -> None:
    """The wheel with the pinned dependencies that it names: `pip check` is content, and a node's commands work."""
    clean = tmp_path / "clean"
    venv.create(clean, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(clean / "bin/python")]
    pins = ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "install", "--quiet", "--no-compile", *pins, str(wheel)], check=True, cwd=tmp_path)
    subprocess.run([*pip, "check"], check=True, cwd=tmp_path)
    root = {"RAY_WARMUP_CACHE_ROOT": str(tmp_path / "root")}
    told = run(clean / "bin", tmp_path, "ray-warmup", "--version", **root)
    assert (told.returncode, told.stdout.strip()) == (0, VERSION), told.stderr
    for words in (("--help",), ("history",), ("cache", "ls"), ("config", "--from-vllm", "vllm serve m")):
        done = run(clean / "bin", tmp_path, "ray-warmup", *words, **root)
        assert done.returncode == 0, done.stderr
    checked = run(clean / "bin", tmp_path, "ray-warmup", "doctor", "--json", **root)
    assert "Traceback" not in checked.stderr
    assert '"packages"' in checked.stdout


def libraries() -> list[str]:
    """Directories of the libraries of this environment."""
    return [path for path in sys.path if Path(path).name == "site-packages"]


def contents(wheel: Path) -> dict[str, str]:
    """Each file of a wheel with its digest, without the list that the build writes of them."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/RECORD")]
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in names}


def test_every_module_of_the_wheel_runs_from_it(installed: Path, wheel: Path, tmp_path: Path) -> None:
    """No module imports what only the repository has."""
    with zipfile.ZipFile(wheel) as archive:
        modules = [n.removesuffix(".py").replace("/", ".") for n in archive.namelist() if n.endswith(".py")]
    skipped = ("provider_shim", "run_warmup")  # copied elsewhere before it runs; a script
    names = [name.removesuffix(".__init__") for name in modules if not name.endswith(skipped)]
    code = f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)\nprint(len({names!r}))"
    done = run(installed, tmp_path, "python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200


def test_commands_run_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    """`--help`, `path` and `show` need nothing of the repository."""
    table = tmp_path / "autotune_configs.json"
    table.write_bytes(encode(content()))
    assert "Usage" in run(installed, tmp_path, "ray-warmup", "--help").stdout
    path = run(installed, tmp_path, "ray-warmup", "path", "--set", f"cache.root={tmp_path}/root")
    assert path.returncode == 0, path.stderr
    assert str(tmp_path) in path.stdout
    shown = run(installed, tmp_path, "ray-warmup", "show", str(table))
    assert shown.returncode == 0, shown.stderr


@pytest.fixture
def application(tmp_path: Path) -> Path:
    """A directory of somebody's application with packages of its own under all four names."""
    for folder in FOLDERS:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("raise RuntimeError('the application, not ray-warmup')\n")
    return tmp_path


def test_an_application_with_folders_of_the_same_names(installed: Path, application: Path) -> None:
    """The command line, `apply` and `monitor` find ray-warmup's own modules from its directory."""
    path = run(installed, application, "ray-warmup", "path", "--set", f"cache.root={application}/root")
    assert path.returncode == 0, path.stderr
    code = """
import ray_warmup
from ray_warmup.warmup.errors import LoadError
with ray_warmup.monitor("app", root={root!r}) as monitor:
    assert monitor.report().is_clean
try:
    ray_warmup.apply("/nowhere/autotune_configs.json")
except LoadError as error:
    print("LoadError")
"""
    done = run(installed, application, "python", "-c", code.format(root=str(application / "root")))
    assert (done.returncode, done.stdout.strip()) == (0, "LoadError"), done.stderr


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_root_leads_to_the_folders(folder: str) -> None:
    """Each part of the package is the folder at the top of the repository."""
    assert (ROOT / "ray_warmup" / folder).resolve() == ROOT / folder


def test_a_wrong_type_across_two_folders_is_found(tmp_path: Path) -> None:
    """mypy follows imports through the root: a planted error in a caller of another folder's function is seen."""
    planted = tmp_path / "planted.py"
    planted.write_text(
        "from ray_warmup.configs.loader import load_config\n"
        "from ray_warmup.warmup.artifact.artifact import sha256\n"
        "sha256(load_config('cpu_two_nodes'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-incremental", "--config-file", str(ROOT / "pyproject.toml"), str(planted)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert 'Argument 1 to "sha256" has incompatible type "WarmupConfig"' in done.stdout
