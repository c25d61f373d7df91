"""A rank's compiled part: nothing without a GPU, everything it can with one, never an obstacle."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_warmup.warmup.artifact.artifact import table_content
from ray_warmup.warmup.caches import flashinfer_modules
from ray_warmup.warmup.caches.compiled_part import NodeKernelCaches
from ray_warmup.warmup.errors import CorruptArtifactError
from tests.artifacts import make_artifact, table_bytes

ON_GPU = {"driver": "580.1", "cuda_version": "13.0", "arch": "90a"}
ON_CPU = {"driver": "", "cuda_version": "", "arch": "cpu-x86_64"}


def part(tmp_path: Path, fingerprint: dict[str, str]) -> NodeKernelCaches:
    """The part of a rank whose home is `tmp_path`."""
    environ = {"HOME": str(tmp_path / "home"), "CUDA_CACHE_MAXSIZE": "1000000"}
    return NodeKernelCaches(fingerprint, tmp_path / "store", tmp_path / "workspace", environ)


def test_without_a_gpu_there_is_nothing(tmp_path: Path) -> None:
    """On CPU nothing is recorded, and nothing but modules could be collected."""
    rank = part(tmp_path, ON_CPU)
    rank.start()

    assert rank.collect({}, None) == ((), ())
    assert rank.triton_compilations == 0


def test_what_is_collected_installs_on_another_node(tmp_path: Path) -> None:
    """Triton entries and kernels of one node are found on another after the installation."""
    rank, other = part(tmp_path / "a", ON_GPU), part(tmp_path / "b", ON_GPU)
    entry = rank.environment.triton_cache / "ENTRY"
    entry.mkdir(parents=True)
    (entry / "launcher.so").write_bytes(b"launcher")
    entry.with_name("OTHER").mkdir()
    (entry.with_name("OTHER") / "k.cubin").write_bytes(b"used by another process")
    rank._recorder.used.add("ENTRY")
    (tmp_path / "nv/0").mkdir(parents=True)
    (tmp_path / "nv/0/kernel").write_bytes(b"kernel")
    contents, warnings = rank.collect({}, tmp_path / "nv", ["OTHER"])
    result = other.install(make_artifact(contents=[table_content(table_bytes(1)), *contents]))

    assert (warnings, result.warnings) == ((), ())
    assert (other.environment.triton_cache / "ENTRY/launcher.so").read_bytes() == b"launcher"
    assert (other.environment.compute_cache / "0/kernel").read_bytes() == b"kernel"
    assert (other.environment.triton_cache / "OTHER/k.cubin").is_file()
    assert result.provider is None


def test_a_part_that_cannot_be_collected_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged library costs the modules only; the kernels are shipped all the same."""

    def damaged(*_: object) -> None:
        raise CorruptArtifactError("gemm.so is cut off")

    monkeypatch.setattr(flashinfer_modules, "collect", damaged)
    (tmp_path / "nv").mkdir()
    (tmp_path / "nv/kernel").write_bytes(b"kernel")
    contents, warnings = part(tmp_path, ON_GPU).collect({}, tmp_path / "nv")

    assert [content.path for content in contents] == ["kernel", "requirements.json"]
    assert warnings == ("flashinfer_module is not shipped, other nodes compile for themselves: gemm.so is cut off",)
