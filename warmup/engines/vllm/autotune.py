"""vLLM's `flashinfer_autotune` in one worker: recorded, tuned, or answered by a placed table.

vLLM 0.33 keeps a table per rank in a file of its own (v1), or the entries in FlashInfer's managed store where there is
one rank (v2). It skips its dummy sweep by itself where every rank of the group holds an equal file; with the store the
sweep is skipped here, where the store holds every entry. Whatever else the function does still runs. 0.32 has the file
per rank and no store, releases before it one file that the first rank hands to all; both run their sweep on what they
have loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.caches.placing import Placing
from ray_warmup.warmup.engines.tuning.engine_table import TABLE_FILE, EngineTable, KnownTable, holds

logger = logging.getLogger(__name__)

RANK_FILE = "{file.stem}_dp{dp_rank}_rank{rank}{file.suffix}"
"""Name of a rank's file in vLLM 0.32, which has no function for it."""


class VllmAutotune:
    """One worker's part."""

    def __init__(self, table: EngineTable) -> None:
        self.table = table
        self._is_held = False

    def place(self, runner: Any, known: KnownTable, round_: Placing) -> int:
        """Put a table where this worker is about to look, and return the number of its entries there.

        A table that vLLM has made for itself is left alone.

        Raises:
            StoreError: the table cannot be written.
        """
        from vllm.model_executor.warmup import flashinfer_autotune_cache as places

        if hasattr(places, "use_flashinfer_autotune_v2") and places.use_flashinfer_autotune_v2(runner):
            return self._publish(known, places.resolve_flashinfer_autotune_v2_root())
        path = table_file(places, runner)
        if not holds(path, known):
            content = Content("autotune_configs", path.name, known.data)
            if not round_.tree(TABLE_FILE, (content,), path.parent).written:
                logger.warning(
                    "ray-warmup: %s is vLLM's own table and is left alone -> remove it to serve the tuned one", path
                )
                return 0
        return len(known.table.entries)

    def _publish(self, known: KnownTable, root: Path | None) -> int:
        """Put a table into FlashInfer's managed store."""
        from ray_warmup.warmup.device.managed_store import publish_table

        others = publish_table(known.table, root)
        self._is_held = not others
        if others:
            logger.warning(
                "ray-warmup: FlashInfer's store has %d entries of its own that differ from the tuned ones and are left "
                "alone, for example %s -> empty its directory (FLASHINFER_AUTOTUNE_CACHE_DIR) to serve the tuned ones",
                len(others),
                others[0],
            )
        return len(known.table.entries) - len(others)

    def sweep(self, original: Callable[[], None], *, records: bool) -> None:
        """Run the dummy sweep as this start needs it: recorded, not at all, or as vLLM does."""
        if records:
            with self.table.recording():
                original()
        elif self._is_held:
            logger.info("ray-warmup: every entry of the table is in the store, the dummy sweep is skipped")
        else:
            original()


def table_file(places: ModuleType, runner: Any) -> Path:
    """Return the file in which a worker looks for its table, by the functions that its vLLM has."""
    if hasattr(places, "resolve_rank_flashinfer_autotune_file"):
        return Path(places.resolve_rank_flashinfer_autotune_file(runner))
    from vllm.model_executor.warmup import kernel_warmup

    shared = Path(places.resolve_flashinfer_autotune_file(runner))
    if not hasattr(kernel_warmup, "_all_ranks_have_matching_cache"):
        return shared
    from vllm.distributed.parallel_state import get_world_group

    dp_rank = runner.vllm_config.parallel_config.data_parallel_rank
    return shared.with_name(RANK_FILE.format(file=shared, dp_rank=dp_rank, rank=get_world_group().rank_in_group))
