"""Publishers that are killed in a loop while readers read one store; run by a test, and alone for longer.

    python tests/publish_storm.py --publishes 100000 --seed 7

Publishers, which also prune, are forked and die by SIGKILL at random moments. Readers check that whatever they see is
whole and that its table, timings and module belong together. Prints one JSON line; exit code 1 for any problem.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ray_warmup.warmup.artifact.artifact import Artifact  # noqa: E402
from ray_warmup.warmup.artifact.timings import read_timings  # noqa: E402
from ray_warmup.warmup.errors import StoreError  # noqa: E402
from ray_warmup.warmup.store.node_store import NodeStore  # noqa: E402
from ray_warmup.warmup.store.pruning import collect_garbage, prune_generations  # noqa: E402
from tests.artifacts import KEY, make_artifact, table_bytes  # noqa: E402

VARIETY = 40
"""How many different artifacts there are; few enough that blobs are shared, and pruned while others use them."""


def storm_artifact(number: int) -> Artifact:
    """An artifact whose parts all tell its number."""
    return make_artifact(number, table=table_bytes(number, size=3000))


ARTIFACTS = [storm_artifact(number) for number in range(VARIETY)]
WHOLE = {table_bytes(number, size=3000): number for number in range(VARIETY)}


def publish_until_killed(directory: Path, count_file: int, seed: int) -> None:
    """Publish at random until killed or orphaned, one byte in the count file for each; prune now and then."""
    rng = random.Random(seed)
    store = NodeStore(directory)
    parent = os.getppid()
    while os.getppid() == parent:
        store.publish(rng.choice(ARTIFACTS))
        os.write(count_file, b".")
        if rng.random() < 0.03:
            prune_generations(store, store.generations.numbers()[:-3])
            collect_garbage(store)


def read_until(stop: Path, directory: Path, report: Path) -> None:
    """Read until `stop` exists, then write counts. Raises AssertionError for anything that is not whole."""
    store = NodeStore(directory)
    counts = dict.fromkeys(("tables", "hits", "misses", "artifacts", "refusals"), 0)
    parent = os.getppid()
    while not stop.exists() and os.getppid() == parent:
        assert store.table_path.read_bytes() in WHOLE, "the table file is not whole"
        counts["tables"] += 1
        found = store.lookup(KEY)
        counts["hits" if found.hit else "misses"] += 1
        assert not found.hit or found.table in WHOLE, "a lookup gave a table that nobody published"
        try:
            artifact, lease = store.load_artifact()
        except StoreError:
            counts["refusals"] += 1
            continue
        number = WHOLE[artifact.table or b""]
        assert artifact.digest == ARTIFACTS[number].digest, "table and manifest do not belong together"
        assert read_timings(artifact).rows[0].result.elapsed_s == number / 1e6, (
            "table and timings do not belong together"
        )
        assert artifact.contents("flashinfer_module")[0].data == b"gemm" * 2000, "the module is not whole"
        counts["artifacts"] += 1
        lease.release()
    report.write_text(json.dumps(counts))


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a child that exits with 0, or with 1 and the traceback on stderr."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def wait_for_progress(count_file: int, publishes: int) -> None:
    """Wait for some more publishes, at most two seconds: on a busy machine nobody is killed before it did anything."""
    wanted, deadline = os.fstat(count_file).st_size + publishes, time.monotonic() + 2.0
    while os.fstat(count_file).st_size < wanted and time.monotonic() < deadline:
        time.sleep(0.002)


def storm(scratch: Path, publishes: int, seed: int, num_publishers: int, num_readers: int) -> dict[str, object]:
    """Kill and replace publishers until at least `publishes` were counted; what happened, with any problems."""
    rng = random.Random(seed)
    store, stop, started = scratch / "store", scratch / "stop", time.monotonic()
    NodeStore(store).publish(ARTIFACTS[0])
    count_file = os.open(scratch / "count", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    reports = [scratch / f"reader{i}.json" for i in range(num_readers)]
    readers = [fork(lambda report=report: read_until(stop, store, report)) for report in reports]

    def publisher() -> int:
        birth = rng.randrange(1 << 30)
        return fork(lambda: publish_until_killed(store, count_file, birth))

    alive = [publisher() for _ in range(num_publishers)]
    kills, problems = 0, []
    while os.fstat(count_file).st_size < publishes and not problems:
        wait_for_progress(count_file, rng.randint(1, 6))
        time.sleep(rng.uniform(0.0, 0.02))
        victim = rng.randrange(num_publishers)
        os.kill(alive[victim], signal.SIGKILL)
        _, status = os.waitpid(alive[victim], 0)
        kills += 1
        if not os.WIFSIGNALED(status):
            problems.append("a publisher ended by itself")
        alive[victim] = publisher()
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    stop.touch()
    problems += ["a reader failed" for pid in readers if os.waitpid(pid, 0)[1] != 0]
    final = NodeStore(store)
    found = final.lookup(KEY)
    if not found.hit or final.table_path.read_bytes() != found.table:
        problems.append(f"after the storm: {found.reason or 'the table is not the committed one'}")
    final.sweep(older_than_s=-1)
    left = [str(path) for path in store.rglob(".*.tmp")]
    return {
        "seed": seed,
        "publishes": os.fstat(count_file).st_size,
        "kills": kills,
        "seconds": round(time.monotonic() - started, 1),
        "readers": [json.loads(path.read_text()) for path in reports if path.exists()],
        "problems": problems + ([f"temporary files left: {left}"] if left else []),
    }


def main() -> int:
    """Run one storm on a memory file system where there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--publishes", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--publishers", type=int, default=3)
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"))
    arguments = parser.parse_args()
    base = arguments.directory if arguments.directory.is_dir() else None
    with tempfile.TemporaryDirectory(dir=base, prefix="ray-warmup-storm-") as scratch:
        outcome = storm(Path(scratch), arguments.publishes, arguments.seed, arguments.publishers, arguments.readers)
    print(json.dumps(outcome))
    return 1 if outcome["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
