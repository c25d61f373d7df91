"""FlashInfer's modules: collected whole, refused where they do not fit, found by FlashInfer's own lookup."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.caches import flashinfer_modules as modules
from ray_warmup.warmup.caches.provider import MARK, PACKAGE, is_installed
from ray_warmup.warmup.errors import CorruptArtifactError, RejectedArtifactError
from ray_warmup.warmup.families.known import installed_families
from tests.artifacts import ROOT

HERE = {
    "flashinfer": "0.7.2.post1",
    "tvm_ffi": "0.1.15",
    "cuda": "13.0",
    "architectures": "90a",
    "python_abi": "cpython-312-x86_64",
    "glibc": "2.36",
}
PROBE = """
import json, os, sys
from pathlib import Path
from ray_warmup.warmup.caches import flashinfer_modules as modules
ours, when = Path(sys.argv[1]), sys.argv[2]
if when == "before":
    assert modules.activate(ours)
from ray_warmup.warmup.families.library import flashinfer
from flashinfer.jit import env
from flashinfer.jit.core import gen_jit_spec
untouched = not gen_jit_spec("probe", [sys.argv[3]]).is_aot
if when == "after":
    assert modules.activate(ours)
assert modules.activate(ours)
report = {
    "untouched": untouched,
    "providers": [provider.provider_id for provider in getattr(env, "FLASHINFER_AOT_PROVIDERS", ())],
    "paths": {name: str(path) for name, path in modules.library_paths(["probe", "absent"]).items()},
    "loads": gen_jit_spec("probe", [sys.argv[3]]).try_load() is not None,
    "broken_loads": gen_jit_spec("broken", [sys.argv[3]]).try_load() is not None,
}
Path(sys.argv[4]).write_text(json.dumps(report))
"""


HAS_ONE_DIRECTORY = installed_families()[0].modules_through == "one directory"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real shared library named `probe`."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler to make a shared library with")
    directory = tmp_path_factory.mktemp("library")
    (directory / "probe.c").write_text("int probe_answer(void) { return 42; }\n")
    command = ["gcc", "-shared", "-fPIC", "-o", str(directory / "probe.so"), str(directory / "probe.c")]
    subprocess.run(command, check=True)
    return directory / "probe.so"


def test_collect_takes_whole_libraries_and_what_they_need(library: Path) -> None:
    """Libraries come with their requirements; none collected means nothing at all."""
    contents = modules.collect({"probe": library}, HERE)

    assert [content.path for content in contents] == ["probe/probe.so", "requirements.json"]
    assert contents[0].data == library.read_bytes()
    assert json.loads(bytes(contents[1].data)) == HERE
    assert modules.collect({}, HERE) == ()


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_cut_off_library_is_not_collected(library: Path, tmp_path: Path, keep: float) -> None:
    """A library whose build was cut off is refused by name, wherever it was cut."""
    data = library.read_bytes()
    path = tmp_path / "probe.so"
    path.write_bytes(data[: int(len(data) * keep)])

    with pytest.raises(CorruptArtifactError, match="build probe again"):
        modules.collect({"probe": path}, HERE)


def test_install_is_complete_and_repeatable(library: Path, tmp_path: Path) -> None:
    """The second installation writes nothing; a damaged file is written again."""
    contents = modules.collect({"probe": library}, HERE)
    assert not is_installed(tmp_path)
    written = modules.install(contents, tmp_path, HERE)

    assert is_installed(tmp_path)
    assert written[-1].name == "__init__.py"
    assert modules.install(contents, tmp_path, HERE) == []
    installed = tmp_path / PACKAGE / "modules/probe/probe.so"
    installed.write_bytes(b"damaged")
    assert modules.install(contents, tmp_path, HERE) == [installed]
    assert modules.install((), tmp_path / "none", HERE) == []
    assert modules.activate(tmp_path / "none") is False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flashinfer", "0.7.3"),
        ("tvm_ffi", "0.2"),
        ("cuda", "12.9"),
        ("architectures", "100a"),
        ("python_abi", "cpython-311-aarch64"),
        ("glibc", "2.28"),
    ],
)
def test_modules_that_do_not_fit_are_rejected(library: Path, tmp_path: Path, name: str, value: str) -> None:
    """Another version, architecture, ABI or an older C library is refused by name; a newer C library is fine."""
    contents = modules.collect({"probe": library}, HERE)

    with pytest.raises(RejectedArtifactError, match=name):
        modules.install(contents, tmp_path, HERE | {name: value})
    assert list(tmp_path.iterdir()) == []
    assert modules.unmet_requirement(HERE, HERE | {"glibc": "2.40"}) is None


def test_what_a_provider_has_is_foreseen(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without FlashInfer: a provider on the path has its own modules alone, an installed package is believed."""
    provider, package = tmp_path / "provider", tmp_path / "site" / PACKAGE
    modules.install(modules.collect({"probe": library}, HERE), provider, HERE)
    package.mkdir(parents=True)
    (package / "__init__.py").touch()

    def foreseen(name: str) -> bool:
        return modules.is_foreseen(name, tmp_path, HERE["flashinfer"], "90a")

    assert not foreseen("probe")
    monkeypatch.syspath_prepend(str(provider))
    assert (foreseen("probe"), foreseen("other")) == (True, False)
    monkeypatch.syspath_prepend(str(package.parent))
    assert foreseen("other")


@pytest.mark.parametrize(
    "mark", ["{}", "[]", '{"version": 1, "modules": 2, "cuda_architectures": 3, "files": {}, "requirements": "{}"}']
)
def test_a_provider_that_does_not_describe_itself_is_refused(library: Path, tmp_path: Path, mark: str) -> None:
    """A damaged description is a named error each time, and nothing of the provider is left on the path."""
    import flashinfer.jit.env as jit_env

    modules.install(modules.collect({"probe": library}, HERE), tmp_path, HERE)
    (tmp_path / PACKAGE / MARK).write_text(mark)
    places = "FLASHINFER_AOT_DIR" if HAS_ONE_DIRECTORY else "FLASHINFER_AOT_PROVIDERS"
    before = list(sys.path), getattr(jit_env, places)
    for _ in range(2):
        with pytest.raises(CorruptArtifactError, match=r"provider\.json"):
            modules.activate(tmp_path)
    assert (list(sys.path), getattr(jit_env, places)) == before


def test_libraries_without_requirements_are_refused(tmp_path: Path) -> None:
    """Libraries that do not say what they need are not installed."""
    with pytest.raises(CorruptArtifactError, match=r"requirements\.json"):
        modules.install([Content("flashinfer_module", "a/a.so", b"x")], tmp_path, HERE)


def probe(tmp_path: Path, library: Path, when: str, python_path: str = "") -> dict[str, Any]:
    """What a fresh process' FlashInfer finds after installing `probe` and a broken module."""
    paths = {"flashinfer": modules.metadata.version("flashinfer-python"), "cuda": "13.0", "architectures": "90a"}
    here = HERE | paths
    broken = Content("flashinfer_module", "broken/broken.so", b"\x7fELF that no loader takes")
    provider = tmp_path / "provider"
    modules.install([*modules.collect({"probe": library}, here), broken], provider, here)
    (tmp_path / "probe.py").write_text(PROBE)
    report = tmp_path / "report.json"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([p for p in (python_path, str(ROOT)) if p]),
        "FLASHINFER_WORKSPACE_BASE": str(tmp_path / "workspace"),
        "FLASHINFER_CUDA_ARCH_LIST": "9.0a",
        "FLASHINFER_LOGGING_LEVEL": "WARNING",
    }
    arguments = [str(provider), when, str(library.with_suffix(".c")), str(report)]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "probe.py"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Failed to load AOT artifact" in done.stdout + done.stderr
    result: dict[str, Any] = json.loads(report.read_text())
    return result


def test_flashinfer_finds_modules_activated_after_its_import(library: Path, tmp_path: Path) -> None:
    """Without activation it finds nothing; with it, it loads the library itself and warns of the damaged one."""
    report = probe(tmp_path, library, "after")

    assert report["untouched"] is True
    assert report["providers"] == ([] if HAS_ONE_DIRECTORY else ["ray-warmup"])
    assert report["paths"] == {"probe": str(tmp_path / "provider/flashinfer_jit_cache/modules/probe/probe.so")}
    assert (report["loads"], report["broken_loads"]) == (True, False)


@pytest.mark.skipif(HAS_ONE_DIRECTORY, reason="this FlashInfer has no providers")
def test_an_installed_package_still_counts(library: Path, tmp_path: Path) -> None:
    """Activated before the import, our modules stand beside those of an installed flashinfer_jit_cache."""
    version = modules.metadata.version("flashinfer-python") + "+cu130"
    installed = tmp_path / "site" / "flashinfer_jit_cache"
    installed.mkdir(parents=True)
    (installed / "details.py").write_text(f"VERSION = {version!r}\n")
    (installed / "__init__.py").write_text(
        "from types import SimpleNamespace\n"
        "from .details import VERSION as __version__\n"
        "def get_jit_cache_providers():\n"
        "    return (SimpleNamespace(provider_id='official', distribution='official', version=__version__,\n"
        "        jit_cache_dir='/nowhere', cuda_architectures=('sm90a',), modules=('other',)),)\n"
    )
    report = probe(tmp_path, library, "before", python_path=str(tmp_path / "site"))

    assert report["providers"] == ["ray-warmup", "official"]
    assert (report["loads"], report["untouched"]) == (True, False)


def test_one_directory_is_ours_or_that_of_an_installed_package(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FlashInfer before 0.7 asks for one directory: an installed package of prebuilt modules has them all."""
    ask = "import flashinfer_jit_cache as found; print(found.__version__, found.get_jit_cache_dir())"
    site, provider = tmp_path / "site", tmp_path / "provider"
    modules.install(modules.collect({"probe": library}, HERE), provider, HERE)

    def asked(*path: Path) -> list[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
        done = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert asked(provider) == [HERE["flashinfer"], str(provider / PACKAGE / "modules")]
    (site / PACKAGE).mkdir(parents=True)
    version = HERE["flashinfer"] + "+cu130"
    (site / PACKAGE / "__init__.py").write_text(
        f"__version__ = {version!r}\ndef get_jit_cache_dir():\n    return '/prebuilt'\n"
    )
    assert asked(provider, site) == [version, "/prebuilt"]
