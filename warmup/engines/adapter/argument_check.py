"""Ask an engine's own parser whether it takes the arguments of a config, in a child process that imports the engine.

A child is `python -m ray_warmup.warmup.engines.<engine>.argument_check < ARGUMENTS.json`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import JsonValue

from ray_warmup.configs.engine_arguments import hide, secrets_of
from ray_warmup.warmup.errors import EngineError, EngineRequestError

DEADLINE_S = 120.0
ANSWER = "ray-warmup-answer:"
"""Begins the line of the answer, since an engine may print others."""
MODULE = "ray_warmup.warmup.engines.{kind}.argument_check"


def check_arguments(kind: str, title: str, arguments: Mapping[str, JsonValue], deadline_s: float = DEADLINE_S) -> None:
    """Check arguments with the engine of this interpreter.

    Args:
        kind: `engine.kind`.
        title: the engine's name for people.
        arguments: `engine.args`.
        deadline_s: seconds for the child process.

    Raises:
        EngineRequestError: the engine's parser refuses them, with its words.
        EngineError: the engine cannot be imported, or does not answer in time.
    """
    command = [sys.executable, "-m", MODULE.format(kind=kind)]
    secrets = secrets_of(dict(arguments))
    asked = json.dumps(dict(arguments))
    try:
        done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=deadline_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{title} did not check the arguments within {deadline_s:g} s") from error
    for line in done.stdout.splitlines():
        if line.startswith(ANSWER):
            problem = json.loads(line.removeprefix(ANSWER))
            if problem:
                raise EngineRequestError(hide(problem, secrets))
            return
    said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
    raise EngineError(f"{title} could not be asked (exit code {done.returncode}); it said: {hide(said, secrets)}")


def answer(parse: Callable[[Mapping[str, JsonValue], str], Any]) -> int:
    """Print the parser's complaint about the arguments on standard input, or an empty text. Runs in the child."""
    problem = ""
    try:
        parse(json.load(sys.stdin), "dummy")
    except EngineRequestError as error:
        problem = str(error)
    sys.stdout.write(f"\n{ANSWER}{json.dumps(problem)}\n")
    return 0
