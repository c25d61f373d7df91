"""Start one vLLM with random weights, answer trial requests, tell what happened: the child process of `launch.py`.

    python -m ray_warmup.warmup.engines.vllm.start REQUEST.json RESULT.json

Uses vLLM's public interface alone; what happens in its worker processes is the plugin's, which vLLM loads by itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ray_warmup.warmup.engines.vllm.trial import prompts, sampling, trial_batches

MAX_TOKENS = 4


def main(request_path: str, result_path: str) -> int:
    """Run one start. Exit code 0 when every request was answered."""
    began = time.monotonic()
    threading.Thread(target=end_with_the_launcher, name="launcher", daemon=True).start()
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    from vllm import LLM, SamplingParams

    imported = time.monotonic()
    arguments = {"load_format": request["load_format"], "skip_tokenizer_init": True, **request["arguments"]}
    if request["usage"] == "serve":
        arguments |= server_sizes(arguments)
    llm = LLM(**arguments)
    ready = time.monotonic()
    first, answered = answer_all(llm, SamplingParams)
    result = {
        "import_s": imported - began,
        "engine_s": ready - imported,
        "first_answer_s": first,
        "requests": answered,
        "total_s": time.monotonic() - began,
    }
    write_whole(Path(result_path), result)
    shut_down(llm)
    return 0


def end_with_the_launcher() -> None:
    """Kill this process group when standard input ends: whoever started the engine is gone, even by SIGKILL."""
    while os.read(0, 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def server_sizes(arguments: dict[str, Any]) -> dict[str, int]:
    """Resolve the sizes of a step as vLLM's server does: their defaults differ from those of `LLM(...)`."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    resolved = EngineArgs(**arguments)
    resolved.create_engine_config(UsageContext.OPENAI_API_SERVER)
    return {name: int(getattr(resolved, name)) for name in ("max_num_batched_tokens", "max_num_seqs")}


def answer_all(llm: Any, sampling_params: Any) -> tuple[float, int]:
    """Answer every trial batch, and return the seconds of the first batch and the number of requests."""
    config = llm.llm_engine.vllm_config
    batches = trial_batches(
        config.scheduler_config.max_num_seqs,
        config.scheduler_config.max_num_batched_tokens,
        config.model_config.max_model_len,
    )
    first, answered = 0.0, 0
    for batch in batches:
        began = time.monotonic()
        rows = [
            sampling_params(max_tokens=MAX_TOKENS, detokenize=False, **sampling(batch, row))
            for row in range(batch.rows)
        ]
        outputs = llm.generate(prompts(batch), rows, use_tqdm=False)
        if any(not output.outputs[0].token_ids for output in outputs):
            raise RuntimeError(f"a trial request was answered with no token: {batch}")
        first = first or time.monotonic() - began
        answered += len(outputs)
    return first, answered


def shut_down(llm: Any) -> None:
    """End the engine's processes, where this version has a way to say so."""
    shutdown = getattr(llm.llm_engine.engine_core, "shutdown", None)
    if shutdown is not None:
        shutdown()


def write_whole(path: Path, document: dict[str, Any]) -> None:
    """Write the result so that the parent sees all of it or nothing."""
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(document), encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
