"""Reports of runs of any size, for the page of `--report out.html`."""

from __future__ import annotations

import random

from ray_warmup.warmup.report import (
    CacheKindReport,
    ClassReport,
    EngineReport,
    GuardReport,
    RankReport,
    TaskReport,
    VerificationReport,
    WarmupReport,
)

PHASES = {
    "PLACING": 1.2,
    "PROBING": 8.5,
    "LOOKUP": 0.2,
    "COMPILING": 26.3,
    "TUNING": 44.8,
    "GUARDING": 9.9,
    "PUSHING": 0.1,
    "INSTALLING": 0.1,
    "LOADING": 0.2,
    "REPLAYING": 1.2,
}
REASONS = ("", "", "loses 2.1 % on layout 3", "differs from the default by 0.4", "not faster by more than the margin")
DECISIONS = ("kept", "kept", "slower", "wrong", "default")
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"> & \u2028 @@data@@"


def task(number: int, rng: random.Random) -> TaskReport:
    """One of a thousand shapes."""
    kind = number % len(DECISIONS)
    default_s = rng.uniform(5e-6, 5e-3)
    ratio = rng.uniform(1.0, 1.6) if kind < 2 else 1.0
    bucket = 1 << (number % 14)
    op = ("bf16_gemm", "fp8_gemm", "trtllm_moe", "cpu_gemm")[number // 14 % 4]
    shape = f"k={256 * (1 + number // 56)},n={1024 + 128 * (number % 7)}"
    return TaskReport(
        task=f"{op}:cublaslt:bfloat16:{shape}@{bucket}",
        op=op,
        bucket=bucket,
        outcome="tuned",
        decision=DECISIONS[kind],
        runner="CutlassRunner",
        tactic=str(rng.randrange(64)),
        default_s=default_s,
        tuned_s=default_s / ratio,
        winner_ratio=ratio,
        reason=REASONS[kind],
        rank=number % 8,
    )


def report(num_ranks: int, num_tasks: int, *, is_ready: bool = True) -> WarmupReport:
    """A run of ranks on nodes of eight, in two classes if there are several nodes. Its texts try to break out."""
    rng = random.Random(num_ranks)
    check = EngineReport(verification=VerificationReport(requests=8, steps=40, compiled={}, loaded={}, unavailable={}))
    ranks = tuple(rank(number, rng, check) for number in range(num_ranks))
    half = num_ranks // 16 * 8
    groups = [range(num_ranks)] if half == 0 else [range(half), range(half, num_ranks)]
    share = num_tasks // len(groups)
    classes = tuple(
        ClassReport(
            key=f"{number:x}ab34cd90f" * 6 + "0000",
            parts={"gpu": "NVIDIA H200", "flashinfer_version": "0.7.2.post1", "driver": "580.159.04"},
            leader=group[0],
            ranks=tuple(group),
            digest=f"{number:x}" * 64,
            tasks=share,
            measured=share,
            reused=0,
            kept=share * 2 // 5,
            dropped=share - share * 2 // 5,
            strategy="sharded",
            hit=False,
            guard=GuardReport(state="guarded", geomean=1.12, worst=0.995),
            task_reports=tuple(task(number * share + row, rng) for row in range(share)),
            kinds=(
                CacheKindReport(kind="autotune_configs", blobs=1, bytes=90_000),
                CacheKindReport(kind="flashinfer_module", blobs=12, bytes=24_000_000),
                CacheKindReport(kind="triton", blobs=40, bytes=900_000),
            ),
        )
        for number, group in enumerate(groups)
    )
    error = None if is_ready else f"phase LOADING: rank 0 on node 0: took 120.0 s of 120 s allowed\n{HOSTILE}"
    return WarmupReport(
        run_id="4ce1d2a0b3f5e697-20261128T081512-9af3",
        config={"model": {"name": HOSTILE}},
        ranks=ranks,
        classes=classes,
        phases=PHASES,
        warnings=(f"rank 3 was silent for 6.0 s (timeouts.heartbeat is 2) {HOSTILE}",),
        on_disk=f"{len({rank.node_id for rank in ranks})} of {len({rank.node_id for rank in ranks})} nodes",
        error=error,
    )


def rank(number: int, rng: random.Random, check: EngineReport) -> RankReport:
    """The first rank leads, the first of each node writes."""
    role = "follower"
    if number % 8 == 0:
        role = "writer"
    if number == 0:
        role = "leader"
    return RankReport(
        rank=number,
        local_rank=number % 8,
        node_rank=number // 8,
        node_id=f"{number // 8:04x}c0ffee" * 5,
        host=f"gpu-node-{number // 8:02d}",
        address=f"10.0.{number // 8}.7",
        gpu_ids=(str(number % 8),),
        device="NVIDIA H200",
        role=role,
        state="ready",
        digest="0" * 64,
        entries=84,
        hits=84,
        phases={name: round(taken * rng.uniform(0.6, 1.0), 4) for name, taken in PHASES.items() if name != "PLACING"},
        engine=check,
    )
