"""How fast a rank's device is beside its peers'. A slow one is reported and does not lead while another can.

Every rank times one reference GEMM while PROBING. Under `sharded`, each task is measured by one rank only, so at the
end of TUNING all ranks of a class measure one of them again: the longest, in which noise counts least.
"""

from __future__ import annotations

from ray_warmup.warmup import remedies
from ray_warmup.warmup.machine.state.run import ClassState, Commands, Run
from ray_warmup.warmup.messages.answers import Compared
from ray_warmup.warmup.messages.questions import Compare
from ray_warmup.warmup.tasks import TaskResult

SLOW_GPU = 1.15
"""A device that takes this many times its peers' median is slow."""


def slow_at_reference(run: Run) -> dict[int, float]:
    """Ranks that are slow at the reference GEMM among ranks on the same device model, and how slow."""
    times: dict[str, dict[int, float]] = {}
    for rank, state in run.ranks.items():
        if seconds := state.described.reference_s:
            times.setdefault(state.device, {})[rank] = seconds
    slow: dict[int, float] = {}
    for among in times.values():
        slow.update(slower(among))
    return slow


def slower(seconds: dict[int, float]) -> dict[int, float]:
    """Those who take at least SLOW_GPU times the (lower) median, and how many times."""
    if not seconds:
        return {}  # whoever measured has left the run since
    ordered = sorted(seconds.values())
    median = ordered[(len(ordered) - 1) // 2]
    return {rank: taken / median for rank, taken in seconds.items() if taken >= SLOW_GPU * median}


def compare(run: Run, rank_class: ClassState) -> Commands:
    """One step: ask every rank for the shared task, or judge once nobody is at it any more."""
    if rank_class.pool is None or not rank_class.pool.is_done:
        return []
    if is_owed(run, rank_class):
        return _ask_for_shared_task(run, rank_class)
    if rank_class.shared_s and not is_comparing(run, rank_class):
        _report_slow(run, rank_class, rank_class.shared_s)
        rank_class.shared_s = {}
    return []


def is_comparing(run: Run, rank_class: ClassState) -> bool:
    """Return True if a rank of the class is still measuring the shared task."""
    return run.num_asked(rank_class, Compare) > 0


def is_owed(run: Run, rank_class: ClassState) -> bool:
    """Return True if the class's devices are comparable, have measured in this run, and were not compared yet."""
    if rank_class.strategy != "sharded" or rank_class.shared_s is not None or len(rank_class.ranks) < 2:
        return False
    comparable = all(run.ranks[rank].described.reference_s for rank in rank_class.ranks)
    return comparable and rank_class.measured > 0 and any(map(_is_tuned, rank_class.results.values()))


def keep(rank_class: ClassState, rank: int, value: Compared) -> None:
    """Keep a rank's time for the shared task, if the tactic ran."""
    if value.seconds is not None and rank_class.shared_s is not None:
        rank_class.shared_s[rank] = value.seconds


def _ask_for_shared_task(run: Run, rank_class: ClassState) -> Commands:
    rank_class.shared_s = {}
    tuned = [result for result in rank_class.results.values() if _is_tuned(result)]
    task = max(tuned, key=lambda result: (result.measurements[0].median_s, result.task_id))
    assert task.choice is not None, "a tuned task has a choice"
    question = Compare(task.task_id, task.choice, rank_class.quarantine)
    return [*run.ask_all(run.alive(rank_class), question)]


def _is_tuned(result: TaskResult) -> bool:
    return result.choice is not None and bool(result.measurements)


def _report_slow(run: Run, rank_class: ClassState, seconds: dict[int, float]) -> None:
    for rank in seconds.keys() - set(rank_class.ranks):
        del seconds[rank]  # it has left the run
    slow = slower(seconds)
    for rank, ratio in slow.items():
        if rank not in rank_class.slow:
            text = f"{run.ranks[rank].info} needs {ratio:.2f} times its peers' time for a task that all measured"
            run.warn(text, remedies.SLOW)
    rank_class.slow |= frozenset(slow)
    able = [rank for rank in run.alive(rank_class) if rank not in rank_class.slow]
    able = [rank for rank in able if not run.ranks[rank].described.cannot_sign]
    if rank_class.leader in rank_class.slow and able:
        text = f"rank {rank_class.leader} led its class on a slow device; rank {able[0]} leads now"
        run.warn(text, remedies.SLOW)
        rank_class.leader = able[0]
