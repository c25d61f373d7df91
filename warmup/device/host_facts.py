"""The fingerprint of this host from NVML and package metadata: no torch, no FlashInfer, no CUDA context.

For a dry run and for a process that must stay light. `process_facts.py` gives the same parts from
inside a rank; where both run they agree (a test compares them).
"""

from __future__ import annotations

import ast
import ctypes
import ctypes.util
import functools
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

UNKNOWN = "unknown"
"""FlashInfer's text for a version that it cannot find."""

_NVIDIA = re.compile(r"nvidia[-_.].*\.(dist-info|egg-info)$", re.IGNORECASE)
_CUBLAS = (("cublas", "cublasGetProperty"), ("cublasLt", "cublasLtGetProperty"))
# NVML counts cores and not multiprocessors; from 8.6 on every one has 128, and 9.0 and 10.0 as well.
_CORES_PER_SM = {(8, 0): 64, (7, 0): 64, (7, 5): 64}
_DEFAULT_CORES_PER_SM = 128
GIB = 1 << 30


def describe_host(gpu_index: int | None, arch_list: str | None = None) -> dict[str, str]:
    """The fingerprint parts of a process on this host that would use one GPU (NVML's index), or none.

    `arch_list` is FLASHINFER_CUDA_ARCH_LIST, which changes what FlashInfer compiles for. Raises RuntimeError when NVML
    has no such GPU.
    """
    torch_version, cuda_version = torch_facts()
    parts = {
        "flashinfer_version": version_of("flashinfer-python"),
        "cuda_version": cuda_version or UNKNOWN,
        "cublas_version": cublas_version(cuda_version),
        "cudnn_version": cudnn_version(),
        "cudnn_frontend_version": version_of("nvidia-cudnn-frontend"),
        "cutlass_dsl_version": cutlass_dsl_version(),
        "gpu": UNKNOWN,
        "torch": torch_version,
        "triton": version_of("triton"),
        "python_abi": python_abi(),
        "glibc": platform.libc_ver()[1],
    }
    return parts | (cpu_parts() if gpu_index is None else gpu_parts(gpu_index, arch_list))


def cpu_parts() -> dict[str, str]:
    """The parts that a CPU rank has and a GPU rank leaves empty, and its arch."""
    return {"arch": f"cpu-{platform.machine()}", "cpu_model": cpu_model(), "cpu_cores": str(os.cpu_count() or 1)}


def gpu_parts(gpu_index: int, arch_list: str | None = None) -> dict[str, str]:
    """GPU name, driver, SM count, MIG mode and FlashInfer's arch directory, from NVML."""
    import pynvml

    with nvml():
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(gpu_index)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            cores = pynvml.nvmlDeviceGetNumGpuCores(handle)
            return {
                "gpu": _text(pynvml.nvmlDeviceGetName(handle)),
                "driver": _text(pynvml.nvmlSystemGetDriverVersion()),
                "sm_count": str(cores // _CORES_PER_SM.get((major, minor), _DEFAULT_CORES_PER_SM)),
                "mig": mig_mode(handle),
                "arch": listed_archs(arch_list) if arch_list else flashinfer_arch(major, minor),
            }
        except pynvml.NVMLError as error:
            raise RuntimeError(f"NVML cannot describe GPU {gpu_index}: {error}") from error


def gpu_capability(gpu_index: int) -> tuple[int, int]:
    """Compute capability of one GPU, from NVML. Raises RuntimeError when it has no such GPU."""
    import pynvml

    with nvml():
        try:
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(pynvml.nvmlDeviceGetHandleByIndex(gpu_index))
        except pynvml.NVMLError as error:
            raise RuntimeError(f"NVML cannot describe GPU {gpu_index}: {error}") from error
    return int(major), int(minor)


def busy_gpus(gpu_ids: Sequence[str], memory_share: float) -> list[str]:
    """Name each GPU of which others use so much memory that this share of it is not left.

    `gpu_ids` are NVML's indices or UUIDs. Raises RuntimeError when NVML has no such GPU.
    """
    import pynvml

    found = []
    with nvml():
        for gpu in gpu_ids:
            try:
                handle = _handle(gpu)
                memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
                pids = [str(process.pid) for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]
            except pynvml.NVMLError as error:
                raise RuntimeError(f"NVML cannot describe GPU {gpu}: {error}") from error
            if memory.free < memory_share * memory.total:
                who = ""
                if pids:
                    who = f" by processes {', '.join(pids)}"
                found.append(
                    f"GPU {gpu} is busy: {memory.used / GIB:.1f} of {memory.total / GIB:.1f} GiB are used{who}, "
                    f"{memory_share:.0%} must be free"
                )
    return found


def _handle(gpu: str) -> Any:
    import pynvml

    if gpu.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(gpu))
    return pynvml.nvmlDeviceGetHandleByUUID(gpu)


@contextmanager
def nvml() -> Iterator[None]:
    """NVML initialised. Raises RuntimeError where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise RuntimeError(f"NVML cannot be initialised: {error}") from error
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def mig_mode(handle: Any) -> str:
    """Return `on` or `off`.

    A GPU without MIG is `off`.
    """
    import pynvml

    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
    # Most GPUs have no MIG, which NVML reports as an error.
    except pynvml.NVMLError:
        return "off"
    if current == pynvml.NVML_DEVICE_MIG_ENABLE:
        return "on"
    return "off"


def flashinfer_arch(major: int, minor: int) -> str:
    """FlashInfer's workspace directory for one compute capability: `90a`, `100a`, `120f`, `89`."""
    if (major, minor) == (12, 0):
        return "120f"
    return f"{major}{minor}{'a' if major >= 9 else ''}"


def listed_archs(arch_list: str) -> str:
    """Return the directory name for FLASHINFER_CUDA_ARCH_LIST, such as `80_90a` for `8.0 9.0a`."""
    found: set[tuple[int, str]] = set()
    for name in arch_list.split():
        major, _, minor = name.partition(".")
        if not major.isdecimal() or not minor[:1].isdecimal():
            raise RuntimeError(f"FLASHINFER_CUDA_ARCH_LIST: {arch_list!r}: must list capabilities such as 9.0a")
        known = minor
        if not minor[-1].isalpha():
            known = flashinfer_arch(int(major), int(minor))[len(major) :]
        found.add((int(major), known))
    return "_".join(f"{major}{minor}" for major, minor in sorted(found))


def capability_of(arch: str) -> tuple[int, int] | None:
    """Return the compute capability of an architecture's directory name, or None for a CPU's."""
    digits = arch.rstrip("abcdef")
    if not digits.isdigit():
        return None
    return (int(digits[:-1]), int(digits[-1]))


def torch_facts() -> tuple[str, str | None]:
    """torch's version and its CUDA version (None for a CPU build), read from `torch/version.py` without importing."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return UNKNOWN, None
    assigned: dict[str, str] = {}
    # Importing torch takes seconds, and this runs where nothing else needs it.
    for node in ast.parse((Path(spec.origin).parent / "version.py").read_text()).body:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            value = getattr(node, "value", None)
            if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                assigned[target.id] = value.value
    return assigned.get("__version__", UNKNOWN), assigned.get("cuda")


def cublas_version(cuda_version: str | None) -> str:
    """Find cuBLAS's version as FlashInfer does: from the loader's library, an installed package, or the toolkit."""
    for library, function in _cublas_libraries():
        try:
            get_property = getattr(ctypes.CDLL(library), function)
        except (OSError, AttributeError):
            continue
        numbers = [ctypes.c_int() for _ in range(3)]
        for index, number in enumerate(numbers):
            get_property(index, ctypes.byref(number))
        return ".".join(str(number.value) for number in numbers)
    names = sorted((name for name, _ in _installed() if name.startswith("nvidia-cublas")), reverse=True)
    if names:
        return ".".join(metadata.version(names[0]).split(".")[:3])
    if cuda_version:
        return f"cuda-toolkit-{cuda_version}"
    return UNKNOWN


def cudnn_version() -> str:
    """cuDNN's version number as torch prints it (91900 for 9.19.0), from the installed package."""
    names = sorted((name for name, _ in _installed() if re.fullmatch(r"nvidia-cudnn-cu\d+", name)), reverse=True)
    if not names:
        return UNKNOWN
    major, minor, patch = (int(part) for part in metadata.version(names[0]).split(".")[:3])
    if major >= 9:
        return str(major * 10_000 + minor * 100 + patch)
    return str(major * 1000 + minor * 100 + patch)


def cutlass_dsl_version() -> str:
    """Join every installed part of the CuTe DSL with its version, as FlashInfer does."""
    found = []
    for name, version in _installed():
        if name.lower().startswith("nvidia-cutlass-dsl"):
            found.append(f"{name}=={version}")
    return ";".join(sorted(found)) or UNKNOWN


def version_of(distribution: str) -> str:
    """An installed distribution's version, `unknown` when it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return UNKNOWN


def python_abi() -> str:
    """`cpython-312-x86_64`: what a compiled module of this interpreter fits."""
    return f"{sys.implementation.cache_tag}-{platform.machine()}"


def cpu_model() -> str:
    """The processor's name from `/proc/cpuinfo`, else the machine type."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.lower().startswith(("model name", "cpu model")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _cublas_libraries() -> Iterator[tuple[str, str]]:
    for base, function in _CUBLAS:
        yield f"lib{base}.so", function
    for base, function in _CUBLAS:
        found = _library(base)
        if found:
            yield found, function


@functools.cache
def _library(name: str) -> str | None:
    """Return the loader's file for a library. Asked once in a process, because other programs are started for it."""
    return ctypes.util.find_library(name)


@functools.cache
def _installed() -> tuple[tuple[str, str], ...]:
    """Return name and version of NVIDIA's installed packages, whose folders are looked for once in a process.

    Reading the metadata of every package takes a process that joins longer than all else that it does.
    """
    found: dict[str, str] = {}
    for place in sys.path:
        for path in _nvidia_metadata(Path(place or ".")):
            distribution = metadata.Distribution.at(path)
            name = distribution.metadata["Name"] or ""
            found.setdefault(name, distribution.version)  # the first place on the path is the one that is imported
    return tuple(found.items())


def _nvidia_metadata(place: Path) -> list[Path]:
    try:
        entries = sorted(os.listdir(place))
    except OSError:  # an entry of the path that is an archive, or is not there
        return []
    return [place / entry for entry in entries if _NVIDIA.match(entry)]


def _text(value: str | bytes) -> str:
    if isinstance(value, bytes):
        return value.decode()
    return value
