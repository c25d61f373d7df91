"""Installing a whole artifact's compiled part, and the environment that leads a process to it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from ray_warmup.warmup.artifact.artifact import Artifact, Content, table_content
from ray_warmup.warmup.caches import artifact_install, compute_cache, decode_profiles, flashinfer_modules
from ray_warmup.warmup.caches.environment import decide
from tests.artifacts import make_artifact, table_bytes

HERE = {"flashinfer": "0.7.2.post1", "tvm_ffi": "1", "cuda": "13.0", "architectures": "90a", "python_abi": "x"}


def whole_artifact(tmp_path: Path) -> Artifact:
    """An artifact of every compiled kind."""
    library = tmp_path / "python.so"
    library.write_bytes(Path(sys.executable).resolve().read_bytes())
    (tmp_path / "nv/0").mkdir(parents=True)
    (tmp_path / "nv/0/k").write_bytes(b"kernel")
    group = b'{"child_paths": {"k.cubin": "k.cubin"}}'
    return make_artifact(
        contents=[
            table_content(table_bytes(1)),
            *flashinfer_modules.collect({"python": library}, HERE),
            Content("triton_cache", "E/k.cubin", b"cubin"),
            Content("triton_cache", "E/__grp__k.json", group),
            Content("sparse_mla", decode_profiles.FILE_NAME, b'{"device": 1}'),
            *compute_cache.collect(tmp_path / "nv", "580.1"),
        ]
    )


def test_every_part_is_installed(tmp_path: Path) -> None:
    """Modules, Triton entries and kernels land in their places, and the provider is named."""
    artifact = whole_artifact(tmp_path)
    provider = artifact_install.provider_directory(tmp_path / "store", artifact.manifest.module_set)
    environment = decide({}, tmp_path / "home", tmp_path / "root", provider)
    result = artifact_install.install(
        artifact, provider, environment, artifact_install.Node(HERE, "580.1", tmp_path / "autotune")
    )

    assert dict(result.counts) == {
        "flashinfer_module": 3,
        "triton_cache": 2,
        "cuda_compute_cache": 1,
        "sparse_mla": 1,
    }
    assert (result.provider, result.warnings) == (provider, ())
    assert (tmp_path / "home/.triton/cache/E/k.cubin").read_bytes() == b"cubin"
    assert (tmp_path / "home/.nv/ComputeCache/0/k").read_bytes() == b"kernel"
    again = artifact_install.install(
        artifact, provider, environment, artifact_install.Node(HERE, "580.1", tmp_path / "autotune")
    )
    assert (again.files, again.provider) == ((), provider)


def test_parts_that_do_not_fit_are_left_out_with_a_warning(tmp_path: Path) -> None:
    """Another driver or version, or a blob that was not fetched, costs that part only."""
    artifact = whole_artifact(tmp_path)
    (entry, _) = artifact.manifest.of_kind("triton_cache")
    fewer = Artifact(artifact.manifest, {k: v for k, v in artifact.blobs.items() if k != entry.sha256})
    provider = tmp_path / "provider"
    environment = decide({}, tmp_path / "home", tmp_path / "root", provider)
    node = artifact_install.Node(HERE | {"cuda": "12.9"}, "590.2", tmp_path / "autotune")
    result = artifact_install.install(fewer, provider, environment, node)

    assert (result.provider, result.counts, len(result.warnings)) == (None, (("sparse_mla", 1),), 3)
    assert all("compiles for itself" in warning for warning in result.warnings)
    assert not provider.exists()


def test_full_disk_costs_the_compiled_part_only(tmp_path: Path) -> None:
    """A place that cannot be written is a warning, not a failed installation."""
    (tmp_path / "home").write_text("a file in the way")
    environment = decide({}, tmp_path / "home", tmp_path / "root", None)
    result = artifact_install.install(
        whole_artifact(tmp_path),
        tmp_path / "provider",
        environment,
        artifact_install.Node(HERE, "580.1", tmp_path / "autotune"),
    )

    assert [kind for kind, _ in result.counts] == ["flashinfer_module", "sparse_mla"]
    assert len(result.warnings) == 2


def test_a_place_that_cannot_even_be_looked_at_costs_its_part_only(tmp_path: Path) -> None:
    """What the system says of a cache before anything is written is a warning, too: nothing is raised."""
    environment = decide({}, tmp_path / ("h" * 300), tmp_path / "root", None)
    node = artifact_install.Node(HERE, "580.1", tmp_path / "autotune")
    result = artifact_install.install(whole_artifact(tmp_path), tmp_path / "provider", environment, node)

    assert [kind for kind, _ in result.counts] == ["flashinfer_module", "sparse_mla"]
    assert ["File name too long" in warning for warning in result.warnings] == [True, True]


def test_what_is_set_wins_and_the_rest_is_printed(tmp_path: Path) -> None:
    """Variables of the node win; the shell lines lead a fresh process to the provider and survive odd names."""
    provider = tmp_path / "odd 'name"
    environment = decide(
        {"TRITON_CACHE_DIR": "/t", "CUDA_CACHE_PATH": "/c", "PYTHONPATH": "/p"},
        Path("/home/u"),
        Path("/f"),
        provider,
    )
    values = environment.variables()

    assert (values["TRITON_CACHE_DIR"], values["CUDA_CACHE_PATH"]) == ("/t", "/c")
    assert values["FLASHINFER_WORKSPACE_BASE"] == "/f"
    assert environment.variables(required_only=True).keys() == {"FLASHINFER_WORKSPACE_BASE", "PYTHONPATH"}
    command = f"{environment.shell()}{shlex.quote(sys.executable)} -c 'import os; print(os.environ[\"PYTHONPATH\"])'"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{provider}:/p"
    assert environment.merged({"A": "1", "PYTHONPATH": "/q"})["A"] == "1"


def test_defaults_are_the_libraries_own(tmp_path: Path) -> None:
    """Unset, Triton and the driver keep their default places, so an engine without our variables finds them."""
    environment = decide({}, tmp_path, tmp_path / "root", None)

    assert environment.triton_cache == tmp_path / ".triton/cache"
    assert environment.compute_cache == tmp_path / ".nv/ComputeCache"
    assert environment.flashinfer_base == tmp_path / "root"
    assert environment.variables(required_only=True).keys() == {"FLASHINFER_WORKSPACE_BASE"}
    assert decide({"TRITON_HOME": "/t"}, tmp_path, tmp_path, None).triton_cache == Path("/t/.triton/cache")
