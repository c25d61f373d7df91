"""List what is used of Ray Serve LLM, read in Ray's own source, and the releases whose engine is not served."""

from __future__ import annotations

from ray_warmup.warmup.engines.adapter.contract import EngineContract
from ray_warmup.warmup.families.version_order import plain

CALLBACKS = "ray/llm/_internal/common/callbacks/base.py"
CONFIG = "ray/llm/_internal/serve/core/configs/llm_config.py"
ENGINE = "ray/llm/_internal/serve/engines/vllm/vllm_engine.py"
MODELS = "ray/llm/_internal/serve/engines/vllm/vllm_models.py"

SERVE_LLM = EngineContract(
    name="Ray Serve LLM of Ray",
    package="ray",
    versions={"2.60.0": "read in its wheel"},
    functions={
        CALLBACKS: {
            "CallbackBase.__init__": ("self", "llm_config", "raise_error_on_callback", "ctx_kwargs"),
            "CallbackBase.on_before_node_init": ("self",),
            "CallbackBase.run_callback": ("self", "method_name"),
        },
        CONFIG: {"LLMConfig.get_or_create_callback": ("self",)},
        ENGINE: {
            "VLLMEngine.start": ("self",),
            "VLLMEngine._prepare_engine_config": ("self", "callback_ctx"),
        },
        "ray/llm/_internal/common/utils/import_utils.py": {"load_class": ("path",)},
    },
    words={
        CALLBACKS: ("runtime_env: Optional[Dict[str, Any]] = None", "self.ctx = CallbackCtx(**ctx_kwargs)"),
        CONFIG: (
            "callback_config: CallbackConfig = Field(",
            "load_class(self.callback_config.callback_class)",
            '"runtime_env": runtime_env,',
            "**self.callback_config.callback_kwargs,",
        ),
        # Every worker on a GPU is a Ray actor, so its plugin is connected and asks the registry.
        MODELS: (
            "executor_backend = EXECUTOR_BACKEND_RAY",
            'engine_kwargs["distributed_executor_backend"] != executor_backend',
            'engine_kwargs["distributed_executor_backend"] = executor_backend',
        ),
        # The first runs in the replica alone; the second is the task whose runtime environment vLLM gives its workers.
        ENGINE: ('run_callback("on_before_node_init")', '"runtime_env": callback_ctx.runtime_env,'),
    },
)

NOT_SERVED = {"2.58": "0.26.0", "2.59": "0.27.0"}
"""Releases of Ray, and the vLLM that their `ray[llm]` pins, which no adapter here serves."""


def refusal_of(ray_version: str) -> str:
    """Return the reason why Serve LLM of this Ray is not served, or an empty text."""
    vllm = NOT_SERVED.get(".".join(plain(ray_version).split(".")[:2]))
    if vllm is not None:
        known = ", ".join(SERVE_LLM.versions)
        return f"Ray {ray_version} pins vLLM {vllm} for Serve LLM, which ray-warmup does not serve; use Ray {known}"
    return SERVE_LLM.refusal(ray_version)
