"""SGLang's table of FlashInfer tactics: one file for each rank, which it loads, extends and writes at every start.

    $SGLANG_CACHE_DIR/flashinfer/autotune/<FlashInfer>/sm<cc>/<16 hex digits>/rank_tp<n>_pp<n>_dp<n>.json

With several tensor-parallel ranks SGLang compares their files and deletes those that differ, so every rank is given the
same table. It writes the file again at each start, in its own layout: an entry that was placed is known by its content.
"""

from __future__ import annotations

import logging
from pathlib import Path

from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.caches.placing import Placing
from ray_warmup.warmup.engines.tuning.engine_table import TABLE_FILE, KnownTable, holds

logger = logging.getLogger(__name__)


def place_table(path: Path, known: KnownTable, round_: Placing) -> int:
    """Put a table where this rank is about to look, and return the number of its entries there.

    A table that SGLang has made for itself is left alone.

    Raises:
        StoreError: the table cannot be written.
    """
    if not _reads_tables():
        logger.warning(
            "ray-warmup: SGLANG_FLASHINFER_AUTOTUNE_CACHE=0: SGLang reads no table -> unset it to serve tuned tactics"
        )
        return 0
    if not holds(path, known):
        done = round_.tree(TABLE_FILE, (Content("autotune_configs", path.name, known.data),), path.parent)
        if not done.written:
            logger.warning(
                "ray-warmup: %s is SGLang's own table and is left alone -> remove it to serve the tuned one", path
            )
            return 0
    return len(known.table.entries)


def _reads_tables() -> bool:
    from sglang.srt.environ import envs

    return bool(envs.SGLANG_FLASHINFER_AUTOTUNE_CACHE.get())
