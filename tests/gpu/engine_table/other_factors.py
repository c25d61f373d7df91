"""Other values of the variables that vLLM hashes although they change no kernel (`engines/vllm/factors.py`).

One start with all of them must hit, with `VLLM_FORCE_AOT_LOAD=1`: vLLM then fails where it cannot load.
"""

from __future__ import annotations

from pathlib import Path

NOT_TRIED = {
    "VLLM_CUDART_SO_PATH": "asked for only where the library is not loaded already",
    "VLLM_DP_RANK": "vLLM refuses another number where there is one replica",
    "VLLM_DP_RANK_LOCAL": "the same",
    "VLLM_GPU_NIC_PCIE_MAPPING": "vLLM looks the card up, and the machine has none",
    "VLLM_NIC_SELECTION_VARS": "the same: vLLM wants both or none",
    "VLLM_LOG_BATCHSIZE_INTERVAL": "vLLM synchronizes in every forward with it, and dies while it captures graphs",
    "VLLM_RUST_FRONTEND_PATH": "reaches the key only with the front end in Rust, which is left out here",
}
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


PATHS = ("VLLM_LORA_RESOLVER_CACHE_DIR", "VLLM_NCCL_INCLUDE_PATH", "CUDA_HOME", "VLLM_NCCL_SO_PATH")
NOSET_VARIABLES = tuple(f"RAY_EXPERIMENTAL_NOSET_{name}" for name in NOSET)
TRIED = (*LABELS, *ADDRESSES, *NUMBERS, *PATHS, *NOSET_VARIABLES)
"""Every variable that is given another value."""


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
    values["VLLM_NCCL_SO_PATH"] = str(library_of_nccl())
    return values


def link_of_cuda(work: Path) -> Path:
    """Another name of the directory of nvcc."""
    from torch.utils.cpp_extension import CUDA_HOME

    link = work / "other-cuda"
    if not link.is_symlink():
        link.symlink_to(CUDA_HOME or "/usr/local/cuda")
    return link


def library_of_nccl() -> Path:
    """The path of a library that vLLM would find by itself."""
    import torch

    sites = Path(torch.__file__).resolve().parents[1]
    return next((sites / "nvidia").rglob("libnccl.so*"))
