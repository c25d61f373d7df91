"""Start one SGLang with random weights through its own class, ask it, and say where the seconds went.

    python -m tests.gpu.sglang_table.serve RESULT.json ARGUMENTS.json REQUESTS

`REQUESTS` random prompts are answered six times after the first tokens; 0 answers none.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

BEGAN = float(os.environ.get("TABLE_BEGAN", time.time()))
ROUNDS = 6
NEW_TOKENS = 48
LONGEST = 1500
GREEDY = {"temperature": 0.0, "ignore_eos": True}


def main() -> None:
    """Command line."""
    result_path, arguments = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    requests = int(sys.argv[3])
    from sglang import Engine

    imported = time.time()
    engine = Engine(load_format="dummy", skip_tokenizer_init=True, log_level="info", **arguments)
    ready = time.time()
    try:
        seconds = []
        for tokens in (1, 8, 8):
            before = time.time()
            answer = engine.generate(
                input_ids=[list(range(100, 157))], sampling_params={"max_new_tokens": tokens, **GREEDY}
            )
            seconds.append(round(time.time() - before, 3))
            if tokens == 1:
                first = time.time()
        told = {
            "import_s": round(imported - BEGAN, 2),
            "ready_s": round(ready - BEGAN, 2),
            "first_token_s": round(first - BEGAN, 2),
            "requests_s": seconds,
            "answer": answer[0]["output_ids"] if isinstance(answer, list) else answer["output_ids"],
        }
        write(result_path, told)
        if requests:
            told["throughput"] = [throughput(engine, requests) for _ in range(ROUNDS)]
            write(result_path, told)
    finally:
        engine.shutdown()


def throughput(engine: Any, requests: int) -> dict[str, float]:
    """Answer the same random prompts at once: seconds and generated tokens a second."""
    draw = random.Random(7)
    prompts = [[draw.randint(3, 100_000) for _ in range(draw.randint(16, LONGEST))] for _ in range(requests)]
    sampling = {"max_new_tokens": NEW_TOKENS, **GREEDY}
    engine.flush_cache()
    before = time.time()
    answers = engine.generate(input_ids=prompts, sampling_params=sampling)
    seconds = time.time() - before
    made = sum(len(answer["output_ids"]) for answer in answers)
    read = sum(len(prompt) for prompt in prompts)
    return {
        "seconds": round(seconds, 3),
        "generated_per_s": round(made / seconds, 1),
        "read_per_s": round(read / seconds, 1),
    }


def write(path: Path, told: dict[str, Any]) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(told))
    os.replace(partial, path)


if __name__ == "__main__":
    main()
