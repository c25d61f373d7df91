"""Environment variables that vLLM hashes into its compile key although they change no kernel.

Everything else of `vllm.envs.compile_factors()` belongs to the identity of a start: a difference is a miss that names
the variable. Read in vLLM 0.29.0 to 0.33.0. How each was loaded on a GPU with another value is in
tests/gpu/engine_table/other_factors.py.
"""

from __future__ import annotations

from collections.abc import Mapping

MAY_DIFFER: dict[str, str] = {
    "VLLM_PLUGINS": "which plugins are loaded; it may hide this project's own",
    "VLLM_LOOPBACK_IP": "an address",
    "VLLM_P2P_SIDE_CHANNEL_HOST": "an address",
    "VLLM_P2P_SIDE_CHANNEL_PORT": "a port",
    "VLLM_EC_SIDE_CHANNEL_HOST": "an address",
    "VLLM_EC_SIDE_CHANNEL_PORT": "a port",
    "VLLM_NIXL_SIDE_CHANNEL_PORT": "a port",
    "VLLM_MOONCAKE_BOOTSTRAP_PORT": "a port",
    "MOONCAKE_REQUESTER_LOCAL_HOSTNAME": "an address",
    "MOONCAKE_PREFERRED_SEGMENT": "an address",
    "VLLM_RAY_DP_PLACEMENT_NODE_IPS": "addresses",
    "VLLM_NIC_SELECTION_VARS": "names of network cards",
    "VLLM_RAY_EXTRA_ENV_VARS_TO_COPY": "names of variables, among them this project's own for data parallel actors",
    "VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY": "prefixes of variables",
    "VLLM_PROCESS_NAME_PREFIX": "a label",
    "VLLM_USAGE_SOURCE": "a label",
    "VLLM_IMAGE_TAG": "a label of the image",
    "VLLM_BUILD_COMMIT": "a label of the image",
    "VLLM_BUILD_PIPELINE": "a label of the image",
    "VLLM_BUILD_URL": "a label of the image",
    "VLLM_SYSTEM_START_DATE": "a date",
    "VLLM_LORA_RESOLVER_CACHE_DIR": "a path of adapters",
    "VLLM_RUST_FRONTEND_PATH": "a path of the front end",
    "VLLM_NCCL_SO_PATH": "a path of a library",
    "VLLM_NCCL_INCLUDE_PATH": "a path of headers",
    "VLLM_CUDART_SO_PATH": "a path of a library",
    "VLLM_ENGINE_READY_TIMEOUT_S": "a timeout",
    "VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT": "a timeout",
    "VLLM_MOONCAKE_CONNECTOR_TIMEOUT": "a timeout",
    "VLLM_P2P_HANDSHAKE_TIMEOUT_S": "a timeout",
    "VLLM_P2P_IDLE_TIMEOUT_S": "a timeout",
    "VLLM_LOG_BATCHSIZE_INTERVAL": "an interval of a log line; vLLM cannot capture graphs with it",
    "VLLM_GPU_NIC_PCIE_MAPPING": "a mapping of network cards",
    "CMAKE_BUILD_TYPE": "how vLLM was built",
    "NVCC_THREADS": "how vLLM was built",
    "VERBOSE": "how vLLM was built",
    "CUDA_HOME": "a path; the compiler's own version text is compared by each kind that compiles with it",
    "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "set by vLLM's Ray executor for its workers",
    "RAY_EXPERIMENTAL_NOSET_ROCR_VISIBLE_DEVICES": "which variable of Ray's names devices",
    "RAY_EXPERIMENTAL_NOSET_HIP_VISIBLE_DEVICES": "which variable of Ray's names devices",
    "RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES": "which variable of Ray's names devices",
    "RAY_EXPERIMENTAL_NOSET_HABANA_VISIBLE_MODULES": "which variable of Ray's names devices",
    "RAY_EXPERIMENTAL_NOSET_NEURON_RT_VISIBLE_CORES": "which variable of Ray's names devices",
    "RAY_EXPERIMENTAL_NOSET_ONEAPI_DEVICE_SELECTOR": "which variable of Ray's names devices",
    "RAY_EXPERIMENTAL_NOSET_RBLN_RT_VISIBLE_DEVICES": "which variable of Ray's names devices",
    "RAY_EXPERIMENTAL_NOSET_TPU_VISIBLE_CHIPS": "which variable of Ray's names devices",
}
"""Variable -> what it holds, which is the reason why it may differ."""

BEFORE_0_33: dict[str, str] = {
    "VLLM_RAY_BUNDLE_INDICES": "which bundles of its placement group a replica has",
}
"""The same for variables that vLLM itself leaves out from 0.33.0 on."""


# A border: values of vLLM's own settings.
def binding(factors: Mapping[str, object]) -> dict[str, str]:
    """Return the factors that must be equal, as text: unset ones are left out."""
    kept = {}
    for name, value in sorted(factors.items()):
        is_set = value not in (None, "", "None")
        if is_set and name not in MAY_DIFFER and name not in BEFORE_0_33:
            kept[name] = str(value)
    return kept
