"""Start one SGLang with random weights, answer trial requests, tell what happened: what `start/engine_start.py` runs.

    python -m ray_warmup.warmup.engines.sglang.start REQUEST.json RESULT.json

Uses SGLang's public interface alone; what happens in its schedulers is the plugin's, which SGLang loads by itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from ray_warmup.warmup.engines.front_end.trial_batch import TrialBatch, sampling_of, token_rows
from ray_warmup.warmup.engines.front_end.trial_start import TrialStart, start_and_answer
from ray_warmup.warmup.engines.sglang.arguments import server_args
from ray_warmup.warmup.engines.sglang.trial import trial_batches

MAX_TOKENS = 4
MANY = 256
"""Requests at a time where SGLang decides about them by itself."""


def run(trial: TrialStart) -> None:
    """Start the engine, answer the trial requests, stay as long as the request says, and end."""
    trial.stage.write("importing SGLang")
    # Imported here, so that its seconds are measured and the stage is known when it fails.
    from sglang import Engine

    arguments = server_args(trial.request.arguments, trial.request.load_format)
    imported = time.monotonic()
    trial.stage.write("creating the engine")
    engine = Engine(server_args=arguments)
    ready = time.monotonic()
    try:
        batches = trial_batches(*limits_of(engine, arguments))
        trial.answer_and_stay(imported, ready, batches, partial(generate, engine))
    finally:
        # Explicit, because schedulers are processes of their own and hold the GPU.
        engine.shutdown()


def limits_of(engine: Any, arguments: Any) -> tuple[int, int, int]:
    """Return requests at a time, tokens of a prefill's step, and tokens of a request."""
    values = arguments.resolved_dict()
    running = values["max_running_requests"] or MANY
    chunk = values["chunked_prefill_size"] or 0
    longest = int(engine.tokenizer_manager.context_len)
    for scheduler in engine._scheduler_init_result.scheduler_infos:
        longest = min(longest, int(scheduler["max_req_input_len"]))
    return int(running), max(int(chunk), 0), longest - MAX_TOKENS


def generate(engine: Any, batch: TrialBatch) -> list[Sequence[int]]:
    """Answer one batch."""
    sampling = []
    for row in range(batch.rows):
        sampling.append({"max_new_tokens": MAX_TOKENS, "ignore_eos": True, **sampling_of(batch, row)})
    outputs = engine.generate(input_ids=token_rows(batch), sampling_params=sampling)
    return [output["output_ids"] for output in outputs]


if __name__ == "__main__":
    sys.exit(start_and_answer(run, *sys.argv[1:]))
