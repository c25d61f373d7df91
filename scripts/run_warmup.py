"""The entrypoint of a Ray job: `ray job submit --working-dir . -- python scripts/run_warmup.py --config ...`.

The same as `ray-warmup run`. Works from an unpacked working directory without installation.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

try:
    from ray_warmup.scripts.cli import app
except ImportError as error:  # the job's interpreter or its working directory lacks something
    print(
        f"ray-warmup: cannot be imported by {sys.executable}: {error}; install what it needs on every node of the "
        "cluster, and submit the whole checkout as --working-dir",
        file=sys.stderr,
    )
    print('WARMUP_RESULT {"ready": false, "exit_code": 1, "run_id": "", "error": "ray-warmup cannot be imported"}')
    sys.exit(1)

if __name__ == "__main__":
    app(["run", *sys.argv[1:]])
