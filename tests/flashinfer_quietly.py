"""FlashInfer, imported once for tests: what it imports warns meanwhile, and it needs a place to work."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("FLASHINFER_WORKSPACE_BASE", str(Path(tempfile.gettempdir()) / f"ray-warmup-tests-{os.getuid()}"))
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("FLASHINFER_LOGGING_LEVEL", "WARNING")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ray_warmup.warmup.families.library import AutoTuner

__all__ = ["AutoTuner"]
