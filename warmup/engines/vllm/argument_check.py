"""Ask vLLM's own parser whether it takes the arguments of a config, in a child process that imports vLLM.

python -m ray_warmup.warmup.engines.vllm.argument_check < ARGUMENTS.json
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping

from pydantic import JsonValue

from ray_warmup.configs.engine_arguments import hide, secrets_of
from ray_warmup.warmup.errors import EngineError, EngineRequestError

DEADLINE_S = 120.0
ANSWER = "ray-warmup-answer:"
"""Begins the line of the answer, since vLLM may print others."""


def check_arguments(arguments: Mapping[str, JsonValue], deadline_s: float = DEADLINE_S) -> None:
    """Check arguments with the vLLM of this interpreter.

    Raises:
        EngineRequestError: vLLM's parser refuses them, with its words.
        EngineError: vLLM cannot be imported, or does not answer in time.
    """
    command = [sys.executable, "-m", __spec__.name]
    secrets = secrets_of(dict(arguments))
    asked = json.dumps(dict(arguments))
    try:
        done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=deadline_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"vLLM did not check the arguments within {deadline_s:g} s") from error
    for line in done.stdout.splitlines():
        if line.startswith(ANSWER):
            problem = json.loads(line.removeprefix(ANSWER))
            if problem:
                raise EngineRequestError(hide(problem, secrets))
            return
    said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
    raise EngineError(f"vLLM could not be asked (exit code {done.returncode}); it said: {hide(said, secrets)}")


def main() -> int:
    """Print the parser's complaint, or an empty text."""
    from ray_warmup.warmup.engines.vllm.arguments import engine_args

    problem = ""
    try:
        engine_args(json.load(sys.stdin), "dummy")
    except EngineRequestError as error:
        problem = str(error)
    sys.stdout.write(f"\n{ANSWER}{json.dumps(problem)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
