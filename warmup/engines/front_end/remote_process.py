"""Remote ranks of a replica: processes without an engine that make another replica's requests again and measure them.

    python -m ray_warmup.warmup.engines.front_end.remote_process REQUEST RESULT [RANK]

Without RANK it starts one process per device and waits for them. It is started as an engine's front end is, and finds
the session that conducts its ranks as an engine's ranks do.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ray_warmup.configs import env
from ray_warmup.warmup.device.factory import FLASHINFER_TUNER, load_factory
from ray_warmup.warmup.engines.front_end.child_request import follow_the_launcher
from ray_warmup.warmup.engines.tuning.engine_rank import EngineRank
from ray_warmup.warmup.messages.allotting import RemoteStart
from ray_warmup.warmup.messages.wire import from_bytes
from ray_warmup.warmup.workloads.recorded_request import parse_recording

MODULE = "ray_warmup.warmup.engines.front_end.remote_process"


def start_ranks(request: Path, result: Path, world_size: int) -> int:
    """Start one process per rank, wait until all have ended, and return the first exit code that is not 0."""
    children: list[subprocess.Popen[bytes]] = []
    for rank in range(world_size):
        words = [sys.executable, "-m", MODULE, str(request), str(result), str(rank)]
        # In the process group of this one, which ends as a whole.
        children.append(subprocess.Popen(words, stdin=subprocess.DEVNULL))
    codes = [child.wait() for child in children]
    return next(filter(None, codes), 0)


def measure(start: RemoteStart, rank: int) -> None:
    """Make the requests again on this rank's device, join, and answer until the conductor has gone."""
    recorded = parse_recording(start.work.recording.encode())
    import torch

    from ray_warmup.warmup.device.autotuner_seams import without_store
    from ray_warmup.warmup.device.rebuilding import rebuild_all
    from ray_warmup.warmup.workloads.live_request import PROCESS

    backend, device = "cpu", "cpu"
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
        backend, device = "cuda", f"cuda:{rank}"
    made, refused = rebuild_all(recorded, dict(start.work.states), device)
    PROCESS.take(made)
    ranks = EngineRank(rank, start.world_size, PROCESS.recording(), load_factory(FLASHINFER_TUNER), backend)
    token, _, address = (env.read("RAY_WARMUP_TUNE") or "").partition("@")
    with without_store():
        ranks.serve(address, token, stacks=Path(start.stacks) / f"rank_{rank}.stack", refused=refused)


def main(words: list[str]) -> int:
    """Run the front end, or one rank."""
    request, result = Path(words[0]), Path(words[1])
    start = from_bytes(request.read_bytes(), RemoteStart)
    if len(words) > 2:
        measure(start, int(words[2]))
        return 0
    follow_the_launcher()
    return start_ranks(request, result, start.world_size)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
