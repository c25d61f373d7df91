"""Requests of token ids to a running `vllm serve --tokens-only`: the first ones, random ones, greedy ones."""

from __future__ import annotations

import json
import random
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

SAMPLINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.7},
    {"temperature": 0.7, "top_k": 20},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.9},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "seed": 5},
    {"temperature": 0.7, "top_p": 0.9, "seed": 5},
    {"temperature": 0.7, "top_p": 0.9, "logprobs": 5},
    {"temperature": 0.7, "repetition_penalty": 1.1, "presence_penalty": 0.5, "min_p": 0.1},
    # No trial request is like one of these.
    {"temperature": 1.0, "top_k": 7, "frequency_penalty": 0.3},
    {"temperature": 1.3, "top_k": 300, "top_p": 0.95, "min_p": 0.02, "logprobs": 2},
    {"temperature": 0.0, "logprobs": 0},
    {"temperature": 0.0, "logprobs": 1, "presence_penalty": 1.0},
    {"temperature": 0.5, "logprobs": 12, "seed": 11},
    {"temperature": 0.9, "logprobs": 20, "top_k": 50},
    {"temperature": 0.9, "allowed_token_ids": [11, 12, 13, 14, 15, 16, 17], "min_tokens": 2, "stop_token_ids": [12]},
    {"temperature": 0.0, "prompt_logprobs": 3},
)
"""Kinds of sampling of the random requests."""


@dataclass(frozen=True)
class Server:
    """A running server and the numbers that its prompts may hold."""

    port: int
    vocabulary: int = 150000

    def is_healthy(self) -> bool:
        """Whether the server answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ask(self, tokens: list[int], sampling: dict[str, Any]) -> dict[str, Any]:
        """Send one request and return the answer's one choice. Raises RuntimeError for an answer without a token."""
        body = json.dumps({"token_ids": tokens, "sampling_params": sampling}).encode()
        url = f"http://127.0.0.1:{self.port}/inference/v1/generate"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                document = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{error.code} {error.read().decode()[:300]}") from error
        choice: dict[str, Any] = document["choices"][0]
        if not choice["token_ids"]:
            raise RuntimeError(f"no token was answered: {document}")
        return choice

    def prompt(self, number: int, length: int) -> list[int]:
        """A prompt that no other number has."""
        return [(number * 977 + position * 131) % self.vocabulary + 3 for position in range(length)]


def first_ten(server: Server) -> list[float]:
    """Seconds of ten equal requests with prompts of their own, one after the other; eight tokens each."""
    seconds = []
    for number in range(10):
        began = time.monotonic()
        sampling = {"max_tokens": 8, "temperature": 0.7, "top_k": 20, "top_p": 0.9, "seed": 3}
        server.ask(server.prompt(1000 + number, 57), sampling)
        seconds.append(round(time.monotonic() - began, 4))
    return seconds


def random_requests(server: Server, count: int, longest: int) -> dict[str, Any]:
    """Random prompts and kinds of sampling in waves of 1 to 64 at once."""
    numbers = random.Random(2026)
    seconds: list[float] = []
    errors: list[str] = []

    def one(number: int, length: int, sampling: dict[str, Any]) -> None:
        began = time.monotonic()
        try:
            server.ask(server.prompt(number, length), sampling)
        except (RuntimeError, OSError) as error:
            errors.append(f"{type(error).__name__}: {error}"[:300])
        seconds.append(time.monotonic() - began)

    left, waves, began = count, 0, time.monotonic()
    with ThreadPoolExecutor(64) as pool:
        while left:
            size = min(left, numbers.randint(1, 64))
            rows = []
            for index in range(size):
                sampling = {**numbers.choice(SAMPLINGS), "max_tokens": numbers.randint(2, 16)}
                rows.append(pool.submit(one, 5000 + left - index, numbers.randint(1, longest), sampling))
            for row in rows:
                row.result()
            left, waves = left - size, waves + 1
    ordered = sorted(seconds)
    return {
        "requests": len(seconds),
        "waves": waves,
        "seconds": round(time.monotonic() - began, 2),
        "slowest": round(ordered[-1], 3),
        "median": round(ordered[len(ordered) // 2], 3),
        "errors": errors[:5],
        "failed": len(errors),
    }


def greedy_answers(server: Server, count: int = 64) -> list[dict[str, Any]]:
    """Greedy tokens, and log probabilities of the first one's candidates, prompt after prompt."""
    rows = []
    for number in range(count):
        sampling = {"max_tokens": 12, "temperature": 0.0, "logprobs": 5}
        choice = server.ask(server.prompt(number, 40 + number), sampling)
        first = choice["logprobs"]["content"][0]
        rows.append({"tokens": choice["token_ids"], "first": first})
    return rows
