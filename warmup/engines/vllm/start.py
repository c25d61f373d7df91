"""Start one vLLM with random weights, answer trial requests, tell what happened: what `start/engine_start.py` runs.

    python -m ray_warmup.warmup.engines.vllm.start REQUEST.json RESULT.json

Uses vLLM's public interface alone; what happens in its worker processes is the plugin's, which vLLM loads by itself.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from ray_warmup.warmup.engines.front_end.trial_batch import TrialBatch, sampling_of
from ray_warmup.warmup.engines.front_end.trial_start import TrialStart, start_and_answer
from ray_warmup.warmup.engines.vllm import word_embeddings
from ray_warmup.warmup.engines.vllm.arguments import SIZES, engine_args, resolve_configuration
from ray_warmup.warmup.engines.vllm.trial import prompts, trial_batches
from ray_warmup.warmup.engines.vllm.word_embeddings import LmHead

MAX_TOKENS = 4


def run(trial: TrialStart) -> None:
    """Start the engine, answer the trial requests, stay as long as the request says, and end."""
    request, stage = trial.request, trial.stage
    stage.write("importing vLLM")
    # Imported here, so that its seconds are measured and the stage is known when it fails.
    from vllm import LLM, SamplingParams

    imported = time.monotonic()
    stage.write("creating the engine")
    word_embeddings.decide_as_the_checkpoint(cast(LmHead, request.options["lm_head"]))
    arguments = engine_args(request.arguments, request.load_format)
    if request.options["usage"] == "serve":
        take_server_sizes(arguments)
    llm = LLM.from_engine_args(arguments)
    ready = time.monotonic()
    config = llm.llm_engine.vllm_config
    batches = trial_batches(
        config.scheduler_config.max_num_seqs,
        config.scheduler_config.max_num_batched_tokens,
        config.model_config.max_model_len,
        config.model_config.max_logprobs,
    )
    trial.answer_and_stay(imported, ready, batches, partial(generate, llm, SamplingParams))
    # Explicit, because an engine that ends by garbage collection may leave its workers behind.
    shut_down(llm)


def take_server_sizes(arguments: Any) -> None:
    """Set the sizes of a step as vLLM's server does: their defaults differ from those of `LLM(...)`."""
    # Resolving fills in further arguments, which must stay as the user gave them.
    resolved = copy.deepcopy(arguments)
    resolve_configuration(resolved, "serve")
    for name in SIZES:
        setattr(arguments, name, int(getattr(resolved, name)))


def generate(llm: Any, sampling_params: Any, batch: TrialBatch) -> list[Sequence[int]]:
    """Answer one batch."""
    rows = []
    for row in range(len(batch.lengths)):
        # Without an end of its own, so that every row decodes.
        sampling = sampling_of(batch, row)
        rows.append(sampling_params(max_tokens=MAX_TOKENS, ignore_eos=True, detokenize=False, **sampling))
    return [output.outputs[0].token_ids for output in llm.generate(prompts(batch), rows, use_tqdm=False)]


def shut_down(llm: Any) -> None:
    """End the engine's processes, where this version has a way to say so."""
    # Not public, and absent where the engine core runs in this process.
    shutdown = getattr(llm.llm_engine.engine_core, "shutdown", None)
    if shutdown is not None:
        shutdown()


if __name__ == "__main__":
    sys.exit(start_and_answer(run, *sys.argv[1:]))
