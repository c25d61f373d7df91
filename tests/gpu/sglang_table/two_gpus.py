"""`sglang_start` on two GPUs: SGLang's own starts on the first, recording on the second.

    python -m tests.gpu.sglang_table.two_gpus OUT_DIR [--minutes 9]

Then the proof on the second and a start in a joining home on the first; a second tune; where time is left, a recording
and a proof with tensor parallel size 2. Logs of starts that fail are kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray_warmup.warmup.engines.launcher.recording import Recorded
from tests.gpu.engine_table.log_keeper import LogKeeper
from tests.gpu.sglang_start import Run, census, compared

OFF = {"RAY_WARMUP": "off", "CUDA_VISIBLE_DEVICES": "0"}
ANOTHER_TUNE_S = 110.0
TWO_RANKS_S = 150.0


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--without-own", action="store_true", help="nothing but recording, proof and the joining home")
    parser.set_defaults(rehearsal=False)
    options = parser.parse_args()
    temporary = tempfile.mkdtemp(prefix="sglang-tmp-")
    tempfile.tempdir = temporary
    run = Run(options.out, options)
    with LogKeeper(Path(temporary), options.out / "kept"):
        holds = measure(run, is_own_measured=not options.without_own)
    run.keep("end", {"proof holds": holds, "left_s": round(run.left_s, 1)})
    return 0 if holds else 1


def measure(run: Run, *, is_own_measured: bool) -> bool:
    """Run every step. Returns True if the proof holds."""
    own, root = run.work / "own", run.work / "root"
    run.environ["CUDA_VISIBLE_DEVICES"] = "1"
    found: list[Recorded] = []
    proofs: list[bool] = []

    def recording() -> None:
        run.guarded("record", lambda: found.append(run.record("record", root)))
        if found:
            run.guarded("prove", lambda: proofs.append(run.prove(root).holds))

    lane = in_background(recording)
    if is_own_measured:
        run.guarded("own cold", lambda: run.start("own cold", own, {}, OFF))
        if lane.is_alive() or found:  # else there is nothing to compare with, and the time is kept for a mend
            run.guarded("own warm", lambda: run.start("own warm", own, {}, OFF))
            run.guarded("default", lambda: run.start("default", own, {"disable_flashinfer_autotune": True}, OFF))
    lane.join()
    if not found:
        return False
    again = in_background(lambda: second_tune(run))
    joining(run, root)
    if is_own_measured:
        run.guarded("census", lambda: run.keep("census", census(run.work)))
        run.guarded("tables", lambda: run.keep("tables", compared(own, found[0])))
    again.join()
    if run.left_s > TWO_RANKS_S:
        two_ranks(run)
    return bool(proofs) and proofs[0]


def in_background(work: Callable[[], Any]) -> threading.Thread:
    """Do something beside what follows."""
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def joining(run: Run, root: Path) -> None:
    """A start in a home that was empty, on the first GPU."""
    told = run.work / "told"
    told.mkdir()
    ours = {"RAY_WARMUP": "auto", "RAY_WARMUP_CACHE_ROOT": str(root), "RAY_WARMUP_PROOF": str(told)}
    ours["CUDA_VISIBLE_DEVICES"] = "0"
    run.guarded("joining", lambda: run.start("joining", run.work / "joining", {}, ours))


def second_tune(run: Run) -> None:
    """Record once more, independent of the first."""
    if run.left_s > ANOTHER_TUNE_S:
        run.guarded("record again", lambda: run.record("record again", run.work / "root_2"))


def two_ranks(run: Run) -> None:
    """Record and prove with tensor parallel size 2."""
    run.rows["prove one rank"] = run.rows.pop("prove", {})
    run.arguments |= {"tp_size": 2, "disable_custom_all_reduce": True}
    run.environ["CUDA_VISIBLE_DEVICES"] = "0,1"
    root = run.work / "root_tp2"
    run.guarded("record, two ranks", lambda: run.record("record, two ranks", root))
    if run.left_s > 40:
        run.guarded("prove, two ranks", lambda: run.prove(root))


if __name__ == "__main__":
    sys.exit(main())
