"""Start `vllm serve` by its own command, ask for a token, and say when it answered.

python -m tests.gpu.engine_study.serve_start RESULT.json MODEL_FOLDER PORT [argument of vllm serve ...]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


def post(port: str, tokens: int) -> str:
    """One request of token ids; the answer's text."""
    body = {
        "token_ids": list(range(100, 157)),
        "sampling_params": {"max_tokens": tokens, "temperature": 0.7, "top_k": 20, "top_p": 0.9, "seed": 3},
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/inference/v1/generate",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode()[:300])
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()[:300]}"


def is_healthy(port: str) -> bool:
    """Whether the server answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def main() -> None:
    """Command line."""
    result, model, port, *rest = sys.argv[1:]
    began = float(os.environ.get("ENGINE_STUDY_BEGAN", time.time()))
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.cli.main",
        "serve",
        model,
        "--port",
        port,
        "--load-format",
        "dummy",
    ]
    command += ["--skip-tokenizer-init", "--tokens-only", *rest]
    server = subprocess.Popen(command)
    while server.poll() is None and not is_healthy(port):
        time.sleep(0.2)
    found: dict[str, Any] = {"command": command, "healthy": round(time.time() - began, 2), "exit": server.poll()}
    if server.poll() is None:
        found["answers"] = []
        for tokens in (1, 8, 8):
            before = time.time()
            found["answers"].append({"text": post(port, tokens), "seconds": round(time.time() - before, 3)})
            found.setdefault("to_first_token", round(time.time() - began, 2))
    Path(result).write_text(json.dumps(found))
    server.terminate()
    server.wait(30)


if __name__ == "__main__":
    main()
