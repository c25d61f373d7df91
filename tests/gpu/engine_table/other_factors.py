"""Other values of the variables that vLLM hashes although they change no kernel (`engines/vllm/factors.py`).

One start with all of them must hit, with `VLLM_FORCE_AOT_LOAD=1`: vLLM then fails where it cannot load.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

CARD, CARD_PLUGIN = "0000:fe:1f.0", "planted_card"
CARD_CODE = """import vllm.v1.executor.vllm_net_devices as devices


def register():
    devices.rdma_name_for_nic_pci = lambda address: "mlx5_planted"
"""
"""vLLM looks a network card up below /sys, where it finds none on a machine without one."""
APART = {
    "VLLM_LOG_BATCHSIZE_INTERVAL": "vLLM synchronizes in every forward with it, which no graph capture allows: without",
}
"""Tried in a start of its own, with the reason."""
ADDRESSES = (
    "VLLM_LOOPBACK_IP",
    "VLLM_P2P_SIDE_CHANNEL_HOST",
    "VLLM_EC_SIDE_CHANNEL_HOST",
    "MOONCAKE_REQUESTER_LOCAL_HOSTNAME",
    "MOONCAKE_PREFERRED_SEGMENT",
    "VLLM_RAY_DP_PLACEMENT_NODE_IPS",
)
NUMBERS = (
    "VLLM_P2P_SIDE_CHANNEL_PORT",
    "VLLM_EC_SIDE_CHANNEL_PORT",
    "VLLM_NIXL_SIDE_CHANNEL_PORT",
    "VLLM_MOONCAKE_BOOTSTRAP_PORT",
    "VLLM_ENGINE_READY_TIMEOUT_S",
    "VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT",
    "VLLM_MOONCAKE_CONNECTOR_TIMEOUT",
    "VLLM_P2P_HANDSHAKE_TIMEOUT_S",
    "VLLM_P2P_IDLE_TIMEOUT_S",
)
LABELS = {
    "VLLM_PROCESS_NAME_PREFIX": "OTHER",
    "VLLM_USAGE_SOURCE": "elsewhere",
    "VLLM_IMAGE_TAG": "other:1",
    "VLLM_BUILD_COMMIT": "abcdef0",
    "VLLM_BUILD_PIPELINE": "other",
    "VLLM_BUILD_URL": "http://127.0.0.1/other",
    "VLLM_SYSTEM_START_DATE": "2026-01-01",
    "VLLM_RAY_EXTRA_ENV_VARS_TO_COPY": "SOMETHING",
    "VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY": "SOME_",
    "VLLM_PLUGINS": "ray_warmup",
    "CMAKE_BUILD_TYPE": "Release",
    "NVCC_THREADS": "3",
    "VERBOSE": "1",
}
NOSET = (
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ASCEND_RT_VISIBLE_DEVICES",
    "HABANA_VISIBLE_MODULES",
    "NEURON_RT_VISIBLE_CORES",
    "ONEAPI_DEVICE_SELECTOR",
    "RBLN_RT_VISIBLE_DEVICES",
    "TPU_VISIBLE_CHIPS",
)


PATHS = (
    "VLLM_LORA_RESOLVER_CACHE_DIR",
    "VLLM_NCCL_INCLUDE_PATH",
    "CUDA_HOME",
    "VLLM_NCCL_SO_PATH",
    "VLLM_CUDART_SO_PATH",
    "VLLM_RUST_FRONTEND_PATH",
)
CARDS = ("VLLM_GPU_NIC_PCIE_MAPPING", "VLLM_NIC_SELECTION_VARS")
RUST = {"VLLM_USE_RUST_BENCH": "1", "VLLM_RUST_FRONTEND_PATH": "/bin/true"}
"""With these the path of the program in Rust is in the key, and nothing of it is run by a server."""
NOSET_VARIABLES = tuple(f"RAY_EXPERIMENTAL_NOSET_{name}" for name in NOSET)
TRIED = (*LABELS, *ADDRESSES, *NUMBERS, *PATHS, *CARDS, *NOSET_VARIABLES)
"""Every variable that is given another value, all in one start."""


def other_values(work: Path) -> dict[str, str]:
    """Variable -> a value that no other start of the measurements has."""
    values = {**LABELS}
    for name in ADDRESSES:
        values[name] = "127.0.0.1"
    for number, name in enumerate(NUMBERS):
        values[name] = str(1870 + number)
    for name in NOSET_VARIABLES:
        values[name] = "1"
    work.mkdir(parents=True, exist_ok=True)
    values["VLLM_LORA_RESOLVER_CACHE_DIR"] = str(work)
    values["VLLM_NCCL_INCLUDE_PATH"] = str(work)
    values["CUDA_HOME"] = str(link_of_cuda(work))
    values["VLLM_NCCL_SO_PATH"] = str(library("libnccl.so*"))
    values["VLLM_CUDART_SO_PATH"] = str(library("libcudart.so*"))
    values["VLLM_RUST_FRONTEND_PATH"] = "/bin/false"
    values["VLLM_PLUGINS"] = f"ray_warmup,{CARD_PLUGIN}"
    values["VLLM_GPU_NIC_PCIE_MAPPING"] = ",".join(f"{gpu}={CARD}" for gpu in gpus())
    values["VLLM_NIC_SELECTION_VARS"] = "UCX_NET_DEVICES:1"
    return values


def link_of_cuda(work: Path) -> Path:
    """Another name of the directory of nvcc."""
    from torch.utils.cpp_extension import CUDA_HOME

    link = work / "other-cuda"
    if not link.is_symlink():
        link.symlink_to(CUDA_HOME or "/usr/local/cuda")
    return link


def library(pattern: str) -> Path:
    """The path of a library that vLLM would find by itself."""
    import torch

    # One by one, because a folder that is a link to another site is not gone into from above.
    for folder in sorted((Path(torch.__file__).resolve().parents[1] / "nvidia").iterdir()):
        for path in sorted(folder.rglob(pattern)):
            return path
    raise FileNotFoundError(pattern)


def gpus() -> list[str]:
    """PCI addresses of this machine's GPUs."""
    asked = ["nvidia-smi", "--query-gpu=pci.bus_id", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()


def card_site(folder: Path) -> Path:
    """A folder for PYTHONPATH with a plugin of vLLM that names the network card which the machine lacks."""
    metadata = folder / f"{CARD_PLUGIN}-0.0.test.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {CARD_PLUGIN}\nVersion: 0.0.test\n")
    (metadata / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{CARD_PLUGIN} = {CARD_PLUGIN}:register\n")
    (folder / f"{CARD_PLUGIN}.py").write_text(CARD_CODE)
    return folder
