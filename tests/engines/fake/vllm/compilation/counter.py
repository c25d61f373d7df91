"""Counters of ahead-of-time files, as the engine keeps them."""

from __future__ import annotations

from types import SimpleNamespace

compilation_counter = SimpleNamespace(num_aot_compiles=0, num_aot_artifacts_loaded=0)
