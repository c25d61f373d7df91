"""The entrypoint of a Ray job: `ray job submit --working-dir . -- python scripts/run_warmup.py --config ...`.

The same as `ray-warmup run`. Works from an unpacked working directory without installation.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ray_warmup.scripts.cli import app

if __name__ == "__main__":
    app(["run", *sys.argv[1:]])
