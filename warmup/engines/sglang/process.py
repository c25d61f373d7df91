"""One scheduler process of SGLang: what only SGLang has, at the moments at which its functions are called.

Imports SGLang inside functions.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import JsonValue

from ray_warmup.warmup.engines.plugin.process import EngineProcess
from ray_warmup.warmup.engines.plugin.rank_start import RankStart
from ray_warmup.warmup.engines.plugin.ray_connection import is_connected
from ray_warmup.warmup.engines.sglang.autotune import place_table
from ray_warmup.warmup.engines.sglang.identity import identify, settings_of
from ray_warmup.warmup.engines.sglang.places import places
from ray_warmup.warmup.engines.sglang.versions import SGLANG


class SglangProcess(EngineProcess):
    """One process of SGLang."""

    def __init__(self) -> None:
        super().__init__("sglang", SGLANG)
        self._is_tuned_already = False
        self._is_followed = False

    def begin_scheduler(self, model_runner: Any) -> None:
        """Look for the artifact of this start and place what needs no key of SGLang's."""
        with self._own_time():
            looked = places()
            values = model_runner.server_args.resolved_dict()
            hf_config = model_runner.model_config.hf_config
            start = RankStart(
                rank=tensor_parallel_rank(model_runner),
                world_size=int(values["tp_size"]),
                identity=identify(values, hf_config),
                settings=settings_of(values, hf_config),
                engine_name=engine_name(values),
                directories=looked.of_kind(),
                triton_cache=looked.triton_cache,
            )
        self.begin(start)

    def place_table(self, module: ModuleType, model_runner: Any) -> None:
        """Put the table of the engine's own calls where SGLang's autotuning is about to look.

        `module` is SGLang's own, whose function names the file.
        """
        path = Path(module.flashinfer_autotune_cache_path(model_runner))
        self.place_known_table(lambda known, round_: place_table(path, known, round_))

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Run one of SGLang's dummy forwards as this start needs it: recorded, or as SGLang does."""
        if not self.is_tuned:
            yield
            return
        with self.table.recording():
            yield

    def tune_once(self) -> None:
        """Join the tuning of what the dummy forwards have asked for, if there were any and nothing is tuned yet."""
        if self._is_tuned_already or not self.table.has_recorded:
            return
        self._is_tuned_already = True
        self.tune_recorded()

    def follow_once(self) -> None:
        """Follow every lookup from now on, in a start that must prove itself."""
        if self._is_followed:
            return
        self._is_followed = self.follow_lookups()


def tensor_parallel_rank(model_runner: Any) -> int:
    """Return the rank of a scheduler in its replica. Releases keep it in different places."""
    for holder in (model_runner, getattr(model_runner, "ps", None)):
        rank = getattr(holder, "tp_rank", None)
        if rank is not None:
            return int(rank)
    from sglang.srt.runtime_context import get_parallel

    return int(get_parallel().tp_rank)


def engine_name(values: Mapping[str, JsonValue]) -> str:
    """Return what all ranks of one engine on a node share, and no other engine there has at the time.

    SGLang's server is the parent of their processes. Ray's actors have one parent for all engines, and there it is the
    address at which the ranks of one engine meet (`dist_init_addr`, of which each is told). Empty without one.
    """
    if not is_connected():
        return str(os.getppid())
    address = values.get("dist_init_addr")
    if not address:
        return ""
    return hashlib.sha256(str(address).encode()).hexdigest()[:16]  # part of a file's name
