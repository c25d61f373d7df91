"""Requests made again by their recipes: FlashInfer's own functions and AutoTuner, hollow kernels behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import flashinfer
import pytest
import torch
from flashinfer import bmm_fp8, mm_bf16
from flashinfer.gemm import mm_fp8

from ray_warmup.warmup.device.rebuilding import difference, rebuild, rebuild_all
from ray_warmup.warmup.device.request_recorder import RequestRecorder
from ray_warmup.warmup.errors import WorkloadError
from ray_warmup.warmup.workloads.cpu_gemm_op import cpu_gemm
from ray_warmup.warmup.workloads.live_request import LiveRequest, LiveRequests
from ray_warmup.warmup.workloads.recorded_request import RecordedRequest, RecordedRunner
from tests import planted_tactics, stubbed_ops


@pytest.fixture(autouse=True)
def _hollow() -> Iterator[None]:
    """FlashInfer's GEMMs run without a GPU."""
    with stubbed_ops.stubbed_gemms():
        yield


def fp8(batch: int, tokens: int, dtype: torch.dtype = torch.bfloat16) -> None:
    """`bmm_fp8` with a column-major weight."""
    one = torch.ones(())
    a = torch.randn(batch, tokens, 64).to(torch.float8_e4m3fn)
    b = torch.randn(batch, 48, 64).to(torch.float8_e4m3fn).transpose(1, 2)
    bmm_fp8(a, b, one, one, dtype, backend="cublas")


def fp8_matrix(width: int) -> None:
    """`mm_fp8`, which asks for the op of `bmm_fp8` with a batch of one."""
    a, b = torch.randn(32, 64).to(torch.float8_e4m3fn), torch.randn(width, 64).to(torch.float8_e4m3fn)
    mm_fp8(a, b, torch.ones(1), torch.bfloat16, backend="cublas")


def bf16(tokens: int) -> None:
    """`mm_bf16` with a column-major weight."""
    weight = torch.randn(48, 64, dtype=torch.bfloat16).t()
    mm_bf16(torch.randn(tokens, 64, dtype=torch.bfloat16), weight, backend="cublaslt")


def recorded(*calls: Callable[[], Any]) -> LiveRequests:
    """What an engine's forward with these calls would have recorded, with a bucket of the engine's own."""
    requests = LiveRequests()
    with RequestRecorder(requests).recording() as recorder, flashinfer.autotune(tuning_buckets=(24,)):
        for call in calls:
            call()
    assert recorder.problems == []
    return requests


def test_real_requests_are_made_again_exactly() -> None:
    """Batches, dtypes, two sizes of one request: equal as values, with equal runners, under equal keys."""
    known = recorded(
        lambda: fp8(1, 300),
        lambda: fp8(1, 20),
        lambda: fp8(2, 30, torch.float16),
        lambda: fp8_matrix(96),
        lambda: bf16(300),
        lambda: cpu_gemm(torch.randn(4, 64), torch.randn(48, 64)),
    )
    made, refused = rebuild_all(known.recording(), known.states(), "cpu")
    assert refused == {}
    assert made.recording() == known.recording()
    assert made.states() == known.states()
    assert {request.op for request in made.recording().requests} == {"fp8_gemm", "bf16_gemm", "cpu_gemm"}


def test_what_has_no_recipe_stays_and_is_named() -> None:
    """The rest is made again all the same."""
    planted = planted_tactics.PlantedCall((torch.randn(4, 32), torch.randn(32, 32)))
    known = recorded(planted.run, lambda: bf16(8))
    made, refused = rebuild_all(known.recording(), known.states(), "cpu")
    assert [request.op for request in made.recording().requests] == ["bf16_gemm"]
    assert list(refused.values()) == ["no recipe is known for planted with a first input of 2 dimensions"]


def one_request() -> tuple[RecordedRequest, str]:
    """One recorded `bmm_fp8`, and what its runners hold."""
    known = recorded(lambda: fp8(1, 32))
    (request,) = known.recording().requests
    return request, known.states()[request.digest]


def with_input(request: RecordedRequest, index: int, **changed: Any) -> RecordedRequest:
    """The request with one input in another form."""
    inputs = list(request.inputs)
    inputs[index] = replace(inputs[index], **changed)
    return replace(request, inputs=tuple(inputs))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r: replace(r, runners=(RecordedRunner("CublasFp8GemmRunner", "('other',)"),)), "runners: recorded"),
        (lambda r: replace(r, config=(*r.config, "follows: input 5 dimension 0")), "config: recorded"),
        (lambda r: replace(r, scalars=(("gemm_idx", "1"),)), "scalars: recorded"),
        (lambda r: with_input(r, 5, shape=(8,)), "inputs: recorded"),
        (lambda r: with_input(r, 1, follows=(0,)), "inputs: recorded"),
        (lambda r: replace(r, tokens=33), "tokens: recorded 33, made 32"),
        (lambda r: replace(r, buckets=(1, 2, 4)), "buckets: recorded (1, 2, 4), made (1, 2, 4, 8, 16, 32)"),
        (lambda r: replace(r, dtype="bfloat16"), "dtype: recorded bfloat16, made float8_e4m3fn"),
        (lambda r: replace(r, exact_sizes=True), "exact_sizes: recorded True, made False"),
    ],
)
def test_a_request_that_is_not_the_same_is_refused_by_name(
    change: Callable[[RecordedRequest], RecordedRequest], named: str
) -> None:
    """One part after the other differs from what the function asks for."""
    request, state = one_request()
    with pytest.raises(WorkloadError, match=r"flashinfer\.gemm\.bmm_fp8 asks for something else: ") as raised:
        rebuild(change(request), state, "cpu")
    assert named in str(raised.value)


def test_runners_that_hold_something_else_are_refused() -> None:
    """Their attributes decide on kernels and are in no key; caches of a runner are not among them."""
    request, state = one_request()
    assert state == "CublasFp8GemmRunner()"
    with pytest.raises(
        WorkloadError, match=r"with other runners: recorded CublasFp8GemmRunner\(width=4\), made Cublas"
    ):
        rebuild(request, "CublasFp8GemmRunner(width=4)", "cpu")

    class Wide:
        """A runner with an option and a cache."""

        def __init__(self) -> None:
            self.width, self.out, self._algo_cache = 4, torch.bfloat16, {}

    live = LiveRequest(request, (Wide(),), None, ())
    assert live.state == "Wide(out=torch.bfloat16, width=4)"


def test_what_a_function_refuses_is_the_reason() -> None:
    """A form that the public function does not take."""
    request, state = one_request()
    with pytest.raises(WorkloadError, match=r"flashinfer\.gemm\.bmm_fp8 refuses it: ValueError: "):
        rebuild(with_input(request, 4, dtype="float32"), state, "cpu")


def test_a_difference_names_the_first_part() -> None:
    """And nothing where there is none."""
    request, _ = one_request()
    assert difference(request, request) == ""
    assert difference(request, replace(request, op="other")) == "op: recorded fp8_gemm, made other"
