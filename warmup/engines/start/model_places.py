"""Directories in which an engine finds models and the user's token: they do not move with its caches.

Where HF_HOME is not set, the hub's library keeps both below `$XDG_CACHE_HOME/huggingface` (its `constants.py`). A start
in a home of its own has another XDG_CACHE_HOME, because compilers keep caches below it, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

HOME_OF_MODELS = "HF_HOME"


def model_places(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep models where this environment has them, whatever its XDG_CACHE_HOME becomes.

    Other variables of the hub's library are absolute or below HF_HOME, and are left as they are.
    """
    given = environ.get(HOME_OF_MODELS)
    if given is not None:
        return {HOME_OF_MODELS: given}
    home = Path(environ.get("HOME") or Path.home())
    # As the library reads it: an empty variable counts as set.
    parent = environ.get("XDG_CACHE_HOME", str(home / ".cache"))
    return {HOME_OF_MODELS: str(Path(parent, "huggingface"))}
