"""Start one SGLang with random weights, ask it something, and say where the seconds went.

python -m tests.gpu.engine_study.sglang_start RESULT.json MODEL_FOLDER [--arguments JSON]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

BEGAN = float(os.environ.get("ENGINE_STUDY_BEGAN", time.time()))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("result", type=Path)
    parser.add_argument("model")
    parser.add_argument("--arguments", default="{}")
    options = parser.parse_args()
    marks: dict[str, float] = {}
    import torch  # noqa: F401

    marks["torch"] = time.time() - BEGAN
    import sglang

    marks["sglang"] = time.time() - BEGAN
    arguments = {"load_format": "dummy", "skip_tokenizer_init": True, "mem_fraction_static": 0.5} | json.loads(
        options.arguments
    )
    result: dict[str, Any] = {"arguments": arguments, "marks": marks}
    engine = sglang.Engine(model_path=options.model, **arguments)
    marks["engine"] = time.time() - BEGAN
    seconds = []
    for tokens in (1, 8, 8):
        before = time.time()
        answer = engine.generate(
            input_ids=[list(range(100, 157))],
            sampling_params={"max_new_tokens": tokens, "temperature": 0.0, "ignore_eos": True},
        )
        seconds.append(round(time.time() - before, 3))
        result.setdefault("to_first_token", round(time.time() - BEGAN, 2))
    result |= {"requests": seconds, "answer": str(answer)[:400]}
    result["marks"] = {name: round(value, 2) for name, value in marks.items()}
    options.result.write_text(json.dumps(result))
    print("DONE", json.dumps(result), flush=True)
    engine.shutdown()


if __name__ == "__main__":
    main()
