"""Start one vLLM with random weights, ask it something, and say where the seconds went.

    python -m tests.gpu.engine_study.engine_start RESULT.json MODEL_FOLDER [--arguments JSON] [--requests KIND]

`--requests`: `first` (one token, then the same again), `trials` (every sampling feature), `outputs` (greedy tokens and
log probabilities of 64 prompts, for a comparison).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

BEGAN = float(os.environ.get("ENGINE_STUDY_BEGAN", time.time()))
"""When the launcher started this process."""
TRIALS = (
    ({"top_k": 20}, 1),
    ({"top_k": 20}, 2),
    ({"top_k": 20, "top_p": 0.9}, 1),
    ({"top_k": 20, "top_p": 0.9}, 2),
    ({"top_k": 20, "top_p": 0.9}, 65),
    ({"top_p": 0.9}, 1),
    ({"top_p": 0.9}, 5),
    ({"top_p": 0.9}, 65),
)


def prompt(number: int, length: int = 57) -> dict[str, list[int]]:
    """A prompt of token ids."""
    return {"prompt_token_ids": [(number * 977 + position * 131) % 150000 + 3 for position in range(length)]}


def first_requests(llm: Any) -> dict[str, Any]:
    """One token, then the same request twice with eight."""
    from vllm import SamplingParams

    seconds = []
    for tokens in (1, 8, 8):
        began = time.time()
        params = SamplingParams(max_tokens=tokens, detokenize=False, temperature=0.7, top_p=0.9, top_k=20, seed=3)
        llm.generate([prompt(0), prompt(1)], params, use_tqdm=False)
        seconds.append(round(time.time() - began, 3))
        if tokens == 1:
            first = time.time() - BEGAN
    return {"to_first_token": round(first, 2), "requests": seconds}


def trial_requests(llm: Any) -> dict[str, Any]:
    """Batches that between them need every sampling kernel."""
    from vllm import SamplingParams

    rows = []
    for extra, count in TRIALS:
        began = time.time()
        params = SamplingParams(max_tokens=2, detokenize=False, temperature=0.7, seed=1, **extra)
        llm.generate([prompt(number) for number in range(count)], params, use_tqdm=False)
        rows.append({"params": extra, "batch": count, "seconds": round(time.time() - began, 3)})
    began = time.time()
    llm.generate([prompt(0)], SamplingParams(max_tokens=2, detokenize=False, temperature=0.7), use_tqdm=False)
    return {"trials": [*rows, {"params": {}, "batch": 1, "seconds": round(time.time() - began, 3)}]}


def outputs(llm: Any) -> dict[str, Any]:
    """Greedy tokens and the log probabilities of the first token's candidates, for 64 prompts."""
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=12, detokenize=False, temperature=0.0, logprobs=5)
    answers = llm.generate([prompt(number, 40 + number) for number in range(64)], params, use_tqdm=False)
    rows = []
    for answer in answers:
        chosen = answer.outputs[0]
        candidates = {str(token): row.logprob for token, row in chosen.logprobs[0].items()}
        rows.append({"tokens": list(chosen.token_ids), "first": candidates})
    distinct = len({token for row in rows for token in row["tokens"]})
    return {"outputs": rows, "distinct_tokens": distinct}


def start_ray(*, keep_first_busy: bool) -> list[Any]:
    """A Ray on this machine alone; with its first GPU taken, an engine gets the second."""
    import ray

    temporary = f"/tmp/ray-{os.getpid()}"
    ray.init(num_cpus=16, num_gpus=2, include_dashboard=False, object_store_memory=500 << 20, _temp_dir=temporary)

    class Holder:
        """Holds a GPU."""

        def ids(self) -> list[Any]:
            """Which."""
            return list(ray.get_gpu_ids())

    if not keep_first_busy:
        return []
    global _holder
    _holder = ray.remote(num_gpus=1)(Holder).remote()
    held: list[Any] = ray.get(_holder.ids.remote())
    return held


_holder: Any = None
REQUESTS = {"first": first_requests, "trials": trial_requests, "outputs": outputs}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("result", type=Path)
    parser.add_argument("model")
    parser.add_argument("--arguments", default="{}")
    parser.add_argument("--requests", default="first")
    parser.add_argument(
        "--ray", choices=("plain", "second"), help="start a Ray first; `second` keeps its first GPU busy"
    )
    options = parser.parse_args()
    marks = {"python": time.time() - BEGAN}
    import torch  # noqa: F401

    marks["torch"] = time.time() - BEGAN
    from vllm import LLM

    marks["vllm"] = time.time() - BEGAN
    arguments = {"max_model_len": 4096, "gpu_memory_utilization": 0.6} | json.loads(options.arguments)
    result: dict[str, Any] = {"arguments": arguments, "marks": marks}
    if options.ray is not None:
        result["ray"] = start_ray(keep_first_busy=options.ray == "second")
    llm = LLM(model=options.model, load_format="dummy", skip_tokenizer_init=True, **arguments)
    marks["engine"] = time.time() - BEGAN
    result["blocks"] = llm.llm_engine.vllm_config.cache_config.num_gpu_blocks
    for kind in options.requests.split(","):
        result |= REQUESTS[kind](llm)
        options.result.write_text(json.dumps(result))
    result["marks"] = {name: round(value, 2) for name, value in marks.items()}
    options.result.write_text(json.dumps(result))
    print("DONE", json.dumps({key: value for key, value in result.items() if key != "outputs"}), flush=True)


if __name__ == "__main__":
    main()
