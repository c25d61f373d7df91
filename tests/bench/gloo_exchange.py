"""Today's way to hand a tuned table around: torch.distributed's gloo between plain processes of one host, timed.

`exchange_seconds` starts one process per rank: `python -m tests.bench.gloo_exchange TABLE DIRECTORY RANK WORLD`. Each
round is `broadcast_object_list` from rank 0, a file written by the node's first rank, and a barrier.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ray_warmup.configs import env
from tests.bench.bench_exchange import ExchangeRank

ROUNDS = 11
TIMEOUT_S = 120


def exchange_seconds(table: Path, world: int) -> float:
    """Median seconds of a round on `world` ranks, seen by rank 0; the group is formed before the clock starts."""
    with tempfile.TemporaryDirectory(prefix="gloo-") as directory:
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.bench.gloo_exchange", str(table), directory, str(rank), str(world)],
                cwd=Path(__file__).resolve().parent.parent,
                env={**env.snapshot(), "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        try:
            said = [process.communicate(timeout=TIMEOUT_S)[0] for process in ranks]
        finally:
            for process in ranks:
                process.kill()
    if any(process.returncode for process in ranks):
        raise SystemExit(f"the gloo exchange failed: exit codes {[process.returncode for process in ranks]}")
    seconds: list[float] = json.loads(said[0].splitlines()[-1])
    return statistics.median(seconds)


def rounds(table: bytes, directory: str, rank: int, world: int) -> list[float]:
    """This rank's seconds of each round but the first, which opens the connections."""
    here = ExchangeRank(rank, world, rank, directory, table)
    here.join(f"file://{directory}/rendezvous")
    seconds = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        here.gloo_round()
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def main() -> None:
    """One rank."""
    table, directory, rank, world = sys.argv[1:]
    print(json.dumps(rounds(Path(table).read_bytes(), directory, int(rank), int(world))))


if __name__ == "__main__":
    main()
