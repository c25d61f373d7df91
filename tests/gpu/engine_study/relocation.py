"""Carry what a recorded home holds to another one, kind by kind, as an artifact would."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.caches import flashinfer_modules, triton_cache
from ray_warmup.warmup.caches.requirements import REQUIREMENTS
from tests.gpu.engine_study import homes

AOT = "vllm/torch_compile_cache/torch_aot_compile"


def pack(home: Path, out: Path) -> dict[str, Any]:
    """Copy what moves out of a home into a folder, as files that name no directory of that home."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    sizes: dict[str, Any] = {}
    for model in (home / AOT).glob("*/rank_*/model"):
        target = out / "aot" / model.parent.name / "model"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(model, target)
        (target.parent / "key").write_text(model.parent.parent.name)
    _copy(home / "vllm" / "modelinfos", out / "modelinfos")
    _copy(home / "deep_gemm" / "cache", out / "deep_gemm" / "cache")
    _copy(home / "trtllm_deep_gemm", out / "trtllm_deep_gemm")
    _copy(home / "inductor", out / "inductor")
    _write(triton_cache.collect(home / "triton", triton_cache.snapshot(home / "triton")), out / "triton")
    libraries = {
        path.stem: path for path in (home / "flashinfer").glob("**/cached_ops/*/*.so") if path.parent.name == path.stem
    }
    needs = {"flashinfer": "", "architectures": ""}
    if libraries:
        import torch

        needs = flashinfer_modules.describe_process(str(torch.version.cuda), _architectures(libraries.values()))
    _write(flashinfer_modules.collect(libraries, needs), out / "flashinfer")
    for folder in sorted(out.iterdir()):
        files = [path for path in folder.rglob("*") if path.is_file()]
        sizes[folder.name] = {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}
    return sizes


def _architectures(libraries: Iterable[Path]) -> list[str]:
    return next(iter(libraries)).parents[2].name.split("_")


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)


def _write(contents: Iterable[Any], folder: Path) -> None:
    for content in contents:
        path = folder / content.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(content.data))


def _read(folder: Path, kind: Any) -> list[Any]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [Content(kind, str(path.relative_to(folder)), path.read_bytes()) for path in files]


def unpack(packed: Path, home: Path, *, with_aot: bool = True) -> dict[str, str]:
    """Put a packed home's contents into a fresh home; returns the variables that its processes need besides."""
    extra: dict[str, str] = {}
    homes.environment(home)
    if with_aot:
        for model in (packed / "aot").glob("*/model"):
            target = home / AOT / (model.parent / "key").read_text() / model.parent.name / "model"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(model, target)
    _copy(packed / "modelinfos", home / "vllm" / "modelinfos")
    for name in ("trtllm_deep_gemm", "inductor"):
        if (packed / name).is_dir():
            shutil.copytree(packed / name, home / name, dirs_exist_ok=True)
    if (packed / "deep_gemm").is_dir():
        extra["DG_JIT_CACHE_DIR"] = f"{home / 'deep_gemm'}:{packed / 'deep_gemm'}"
    if (packed / "triton").is_dir():
        triton_cache.install(_read(packed / "triton", "triton_cache"), home / "triton")
    if (packed / "flashinfer").is_dir():
        contents = _read(packed / "flashinfer", "flashinfer_module")
        needs = json.loads((packed / "flashinfer" / REQUIREMENTS).read_text())
        flashinfer_modules.install(contents, home / "provider", needs)
        extra["ENGINE_STUDY_PROVIDER"] = str(home / "provider")
    return extra


def provide(workspace: Path, provider: Path) -> list[str]:
    """Make a provider of the modules that were built in a FlashInfer workspace; their names."""
    import torch

    found = workspace.glob("**/cached_ops/*/*.so")
    libraries = {path.stem: path for path in found if path.parent.name == path.stem}
    needs = flashinfer_modules.describe_process(str(torch.version.cuda), _architectures(libraries.values()))
    flashinfer_modules.install(flashinfer_modules.collect(libraries, needs), provider, needs)
    return sorted(libraries)


def archive(folder: Path, target: Path) -> None:
    """One compressed file of a folder."""
    with tarfile.open(target, "w:xz", preset=1) as file:
        file.add(folder, arcname=folder.name)
