"""The only place that touches FlashInfer's private seams: which call is tuned, with what time, hit or miss.

    capture_call(fn)    the AutoTuner request of an op call, without running any kernel
    look_up(fn)         what serving would choose for it: hit or miss, runner, tactic
    profiled(...)       every tactic that is timed while `autotune()` tunes one op
    answered_by_default(...)   every request of an engine's forward, kept and answered without a search
    without_store()     tune and look up as if no managed store were attached to the process
    watched_lookups(...)       every answer that serving gets

Each wraps a method of the process' AutoTuner and restores it on every way out. What differs between releases of
FlashInfer is asked of the installed family (`warmup/families/`). One thread only.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch

from ray_warmup.warmup.device.tuning_request import Attempt, Captured, Lookup, Profiling, json_tactic
from ray_warmup.warmup.errors import TuningError
from ray_warmup.warmup.families.library import AutoTuner, installed_family, private
from ray_warmup.warmup.tasks import DEFAULT_TACTIC

logger = logging.getLogger(__name__)


class _Answered(BaseException):
    """Exception that ends an op call after the AutoTuner's answer.

    Not an Exception, so that no op catches it.
    """


def capture_call(fn: Callable[[], Any], op: str | None = None) -> Captured:
    """Return the first request of `fn` to the AutoTuner (for `op`, if given). No kernel of that op runs.

    Raises TuningError when `fn` returns without such a request.
    """
    found: list[Captured] = []

    def choose(original: Callable[..., Any], request: Captured) -> Any:
        if op is not None and request.op != op:
            return original()
        found.append(request)
        raise _Answered

    with _choices(choose), suppress(_Answered):
        fn()
    if not found:
        raise TuningError(f"the call never asked the AutoTuner for {op or 'any op'}", op=op or "")
    return found[0]


def look_up(fn: Callable[[], Any], op: str) -> Lookup:
    """Return the AutoTuner's answer to `fn` for `op` outside every `autotune()` context.

    Raises TuningError when `fn` does not ask, or while tuning is on.
    """
    if AutoTuner.get().is_tuning_mode:
        raise TuningError(f"{op} cannot be looked up inside an autotune() context", op=op)
    found: list[Lookup] = []
    searches: list[tuple[bool, int, Any]] = []

    def search(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        answer = original(*args, **kwargs)
        searches.append((bool(answer[0]), int(answer[1]), answer[2]))
        return answer

    def choose(original: Callable[..., Any], request: Captured) -> Any:
        searches.clear()
        runner, tactic = original()
        if request.op != op:
            return runner, tactic
        hit = bool(searches) and searches[-1][0]
        keys = tuple(request.file_keys().values())
        found.append(Lookup(hit, type(runner).__name__, json_tactic(tactic), keys, request))
        raise _Answered

    with _replaced("search_cache", search), _choices(choose), suppress(_Answered):
        fn()
    if not found:
        raise TuningError(f"the call never asked the AutoTuner for {op}", op=op)
    return found[0]


@contextmanager
def forced(op: str, runner: str, tactic: Any) -> Iterator[None]:
    """Answer every request for `op` in the block with this runner and tactic.

    Other ops keep their own.
    """

    def choose(original: Callable[..., Any], request: Captured) -> Any:
        if request.op != op:
            return original()
        return (request.runner(runner), tactic)

    with _choices(choose):
        yield


@contextmanager
def profiled(op: str, time_tactic: Callable[[Attempt], float]) -> Iterator[Profiling]:
    """While the block tunes, let `time_tactic` give the seconds of every tactic of `op`.

    The block ends (as if the call had returned) once the AutoTuner has answered for `op`; other ops of the
    same call keep their default. `time_tactic` may raise: the AutoTuner then skips the tactic.
    """
    seen = Profiling()

    def profile(
        original: Callable[..., float], runner: Any, inputs: Any, tactic: Any, config: Any, **rest: Any
    ) -> float:
        batches = rest.pop("input_tensor_batches", None) or [inputs]

        is_first = seen.captured is not None and runner is seen.captured.runners[0]

        def ms_of(other: Any) -> float:
            return original(runner, inputs, other, config, input_tensor_batches=batches, **rest)

        return time_tactic(Attempt(runner, tactic, is_first, rest, batches, ms_of)) * 1e3

    def choose(original: Callable[..., Any], request: Captured) -> Any:
        if request.op != op:
            return request.runners[0], -1
        seen.captured = request
        original()
        raise _Answered

    with _replaced("_profile_single_kernel", profile), _choices(choose), _watched_memory(seen), suppress(_Answered):
        yield seen


@contextmanager
def answered_by_default(keep: Callable[[Captured, tuple[int, ...], bool], None]) -> Iterator[None]:
    """Answer every request in the block with its first runner's default, after `keep(request, buckets, is_skipped)`.

    `buckets` and the ops that are left out are those of the surrounding `autotune()` contexts, none outside of one.
    `keep` must not raise.
    """
    tuner = AutoTuner.get()

    def choose(original: Callable[..., Any], request: Captured) -> Any:
        keep(request, tuple(tuner._override_tuning_buckets or ()), request.op in tuner._effective_skip_ops)
        return request.runners[0], DEFAULT_TACTIC

    with _choices(choose):
        yield


@contextmanager
def without_store() -> Iterator[None]:
    """Detach the managed store of `autotune_v2` in the block, so that winners stay in memory and none is published.

    Does nothing with a FlashInfer that has no such store.
    """
    if "_managed_cache" not in installed_family().attributes:
        yield
        return
    tuner = AutoTuner.get()
    # A private attribute, because `autotune_v2` has no call that detaches its store.
    attached, tuner._managed_cache = tuner._managed_cache, None
    try:
        yield
    finally:
        tuner._managed_cache = attached


@contextmanager
def watched_lookups(heard: Callable[[Captured, bool, str, Any], None]) -> Iterator[None]:
    """Tell `heard(request, hit, runner, tactic)` of every answer outside of tuning in the block."""
    searches: list[bool] = []

    def search(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        answer = original(*args, **kwargs)
        searches.append(bool(answer[0]))
        return answer

    def choose(original: Callable[..., Any], request: Captured) -> Any:
        searches.clear()
        runner, tactic = original()
        if searches:
            heard(request, searches[-1], type(runner).__name__, json_tactic(tactic))
        return runner, tactic

    with _replaced("search_cache", search), _choices(choose):
        yield


def tuned_keys(op: str) -> set[str]:
    """File keys of the winners of `op` that the AutoTuner holds in memory."""
    return {str(key.file_key) for key in AutoTuner.get().profiling_cache if key.custom_op == op}


def metadata() -> dict[str, str]:
    """The fields that FlashInfer writes into a table made by this process."""
    return {name: str(value) for name, value in private._collect_metadata().items()}


@contextmanager
def _choices(choose: Callable[[Callable[..., Any], Captured], Any]) -> Iterator[None]:
    """Let `choose(original, request)` answer every `choose_one`."""

    def wrapper(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        op, runners, config, inputs, rest = _request(*args, **kwargs)
        request = Captured(op, tuple(runners), config, list(inputs), rest)
        return choose(lambda: original(*args, **kwargs), request)

    with _replaced("choose_one", wrapper):
        yield


def _request(
    custom_op: str, runners: Any, tuning_config: Any, inputs: Any, **kwargs: Any
) -> tuple[str, Any, Any, Any, dict[str, Any]]:  # a border: arguments of FlashInfer's `choose_one`
    return custom_op, runners, tuning_config, inputs, kwargs


@contextmanager
def _replaced(name: str, wrapper: Callable[..., Any]) -> Iterator[None]:
    """Replace one method of the process's AutoTuner by `wrapper(original, ...)` until the block ends."""
    tuner = AutoTuner.get()
    original = getattr(tuner, name)
    # Set on the instance: a wrapper of somebody else must be put back, and the class's own method only uncovered.
    before = tuner.__dict__.get(name)

    def replacement(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    setattr(tuner, name, replacement)
    try:
        yield
    finally:
        if before is None:
            delattr(tuner, name)
        else:
            setattr(tuner, name, before)


@contextmanager
def _watched_memory(seen: Profiling) -> Iterator[None]:
    """Notice that the AutoTuner ran out of memory.

    It empties torch's cache while it handles the error. (Beginning a CUDA graph empties the cache too: that alone says
    nothing.) Later releases ask the other ranks of a tuning group first whether they did, where they caught the error.
    """
    empty = torch.cuda.empty_cache

    def emptied() -> None:
        seen.out_of_memory |= isinstance(sys.exc_info()[1], torch.cuda.OutOfMemoryError | MemoryError)
        empty()

    # FlashInfer catches the error itself and reports nothing, so this call is its only trace.
    torch.cuda.empty_cache = emptied
    try:
        with _watched_votes(seen) if installed_family().votes_on_memory else nullcontext():
            yield
    finally:
        torch.cuda.empty_cache = empty


@contextmanager
def _watched_votes(seen: Profiling) -> Iterator[None]:
    """Notice that a rank of the tuning group ran out of memory."""
    agree = private._sync_oom_across_tune_group

    def agreed(local_oom: bool) -> bool:
        found = bool(agree(local_oom))
        seen.out_of_memory |= found
        return found

    private._sync_oom_across_tune_group = agreed
    try:
        yield
    finally:
        private._sync_oom_across_tune_group = agree
