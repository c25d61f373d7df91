"""What an engine asks is kept as values and answered with the default, with FlashInfer's real AutoTuner."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import flashinfer
import pytest
import torch
from flashinfer.autotuner import AutoTuner, DynamicTensorSpec, TuningConfig

from ray_warmup.warmup.device.request_recorder import RequestRecorder
from ray_warmup.warmup.errors import CorruptArtifactError
from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads import gemm
from ray_warmup.warmup.workloads.cpu_gemm_op import RUNNERS, TUNING_CONFIG, cpu_gemm
from ray_warmup.warmup.workloads.live_request import LiveRequests
from ray_warmup.warmup.workloads.recorded_request import Recording, classes_of, parse_recording
from tests import planted_tactics, stubbed_ops


def recorded(*shapes: tuple[int, int, int]) -> Recording:
    """The recording of a forward with GEMMs of these (M, K, N)."""
    requests = LiveRequests()
    with RequestRecorder(requests).recording():
        for m, k, n in shapes:
            cpu_gemm(torch.randn(m, k), torch.randn(n, k))
    return requests.recording()


def test_a_forward_is_kept_and_answered_with_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside `autotune()` nothing is timed, the default runs, and every layer's request is kept once."""
    monkeypatch.setattr(AutoTuner, "_profile_single_kernel", lambda *_, **__: pytest.fail("timed"))
    requests = LiveRequests()
    a, weight = torch.randn(96, 32), torch.randn(16, 32)
    with RequestRecorder(requests).recording() as recorder, flashinfer.autotune(tuning_buckets=(8, 64)):
        outputs = [cpu_gemm(a, weight) for _ in range(3)]

    assert all(torch.equal(output, a @ weight.t()) for output in outputs)
    assert (recorder.asked, recorder.problems) == (3, [])
    (request,) = requests.recording().requests
    assert request.op == "cpu_gemm"
    assert [runner.name for runner in request.runners] == [type(runner).__name__ for runner in RUNNERS]
    assert request.tokens == 96
    assert request.buckets == (1, 2, 4, 8, 16, 32, 64, 128), "the op's own, with which serving looks up"
    assert request.shapes() == "*x32 16x32"
    assert (request.dtype, request.exact_sizes, request.keeps_default) == ("float32", False, "")
    assert "choose_one" not in AutoTuner.get().__dict__


def test_no_activation_and_no_weight_is_kept() -> None:
    """What is kept of a forward is forms, and integers, whose meaning only the engine knows."""
    requests = LiveRequests()
    with RequestRecorder(requests).recording():
        cpu_gemm(torch.randn(64, 32), torch.randn(16, 32))
    live = requests.of(requests.recording().workloads[0])
    assert [template.value for template in live.templates] == [None, None]


def test_other_sizes_of_one_request_are_the_same_request() -> None:
    """Two numbers of tokens give one request with the larger one's buckets."""
    both = recorded((8, 32, 16), (200, 32, 16))
    assert [(one.tokens, max(one.buckets)) for one in both.requests] == [(200, 256)]
    assert both.digest == recorded((200, 32, 16)).digest
    assert both.requests[0].digest == recorded((8, 32, 16)).requests[0].digest


def test_order_weights_and_addresses_do_not_count_but_shapes_do() -> None:
    """Ranks agree by digest; another shape, or one request more, is another class."""
    first, again = recorded((8, 32, 16), (8, 64, 16)), recorded((8, 64, 16), (8, 32, 16))
    other, more = recorded((8, 32, 24), (8, 64, 16)), recorded((8, 32, 16), (8, 64, 16), (8, 16, 16))
    assert first.digest == again.digest
    assert classes_of([first, other, again, more]) == {first.digest: [0, 2], other.digest: [1], more.digest: [3]}


def test_a_recording_survives_its_bytes_and_damage_is_named() -> None:
    """As JSON and back; anything else is refused with the field."""
    kept = recorded((8, 32, 16))
    assert parse_recording(kept.to_bytes()) == kept
    with pytest.raises(CorruptArtifactError, match=r"requests\.0\.buckets"):
        parse_recording(kept.to_bytes().replace(b'"buckets": [1, 2, 4, 8]', b'"buckets": [0]'))
    with pytest.raises(CorruptArtifactError, match="no JSON"):
        parse_recording(b"{")


def test_an_op_that_communicates_keeps_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner of FlashInfer's `comm` package, and a request with two tuned dimensions, are named and not tuned."""
    requests = LiveRequests()
    config = TuningConfig(dynamic_tensor_specs=TUNING_CONFIG.dynamic_tensor_specs * 2)
    with RequestRecorder(requests).recording():
        AutoTuner.get().choose_one("two", list(RUNNERS), config, [torch.randn(4, 8), torch.randn(4, 8)])
        monkeypatch.setattr(planted_tactics.PlantedRunner, "__module__", "flashinfer.comm.planted")
        planted_tactics.build(0, "cpu", 64).run()
    kept = {request.op: request.keeps_default for request in requests.recording().requests}
    assert (
        kept[planted_tactics.OP]
        == "PlantedRunner communicates with other ranks, and no rank may wait for another one's tactic"
    )
    assert kept["two"] == "2 dimensions are tuned together, one is covered"
    assert requests.recording().tasks == ()


def test_what_the_engine_leaves_out_of_its_tuning_keeps_its_default() -> None:
    """`skip_ops` of the engine's own context, which whoever starts it may have set because a tactic is at fault."""
    requests = LiveRequests()
    with RequestRecorder(requests).recording(), flashinfer.autotune(skip_ops={planted_tactics.OP}):
        planted_tactics.build(0, "cpu", 64).run()
        cpu_gemm(torch.randn(4, 8), torch.randn(8, 8))
    kept = {request.op: request.keeps_default for request in requests.recording().requests}
    assert kept == {planted_tactics.OP: "the engine leaves it out of its tuning (skip_ops)", "cpu_gemm": ""}
    assert {task.workload.op for task in requests.recording().tasks} == {"cpu_gemm"}


def test_what_cannot_be_described_is_named_and_the_forward_goes_on() -> None:
    """A runner whose key cannot be made: one problem, and the default's answer."""

    class Odd(planted_tactics.PlantedRunner):
        """Raises where it is asked for its key."""

        def get_cache_key_extras(self, inputs: list[Any]) -> tuple[Any, ...]:
            """Never answers."""
            raise LookupError("planted")

    requests = LiveRequests()
    runner = Odd()
    with RequestRecorder(requests).recording() as recorder:
        chosen = AutoTuner.get().choose_one(
            "odd", [runner], planted_tactics.CONFIG, [torch.randn(4, 4), torch.randn(4, 4)]
        )
    assert chosen == (runner, -1)
    assert recorder.problems == ["odd was not recorded: LookupError: planted"]
    assert len(requests) == 0


@pytest.mark.parametrize(("ranks_in_keys", "classes"), [(True, [[0], [1]]), (False, [[0, 1]])])
def test_ranks_share_an_op_only_where_its_keys_name_no_rank(ranks_in_keys: bool, classes: list[list[int]]) -> None:
    """FlashInfer 0.6.18 to 0.7.1 put the rank into the keys of CUTLASS MoE, so an entry of one rank serves no other."""

    class Expert(planted_tactics.PlantedRunner):
        """A runner with its rank in its key, as `MoERunner` has there, or without."""

        def __init__(self, rank: int) -> None:
            super().__init__()
            self.rank = rank

        def get_cache_key_extras(self, inputs: list[Any]) -> tuple[Any, ...]:
            """Sizes, and the rank where the release names it."""
            return (2, self.rank) if ranks_in_keys else (2,)

    recordings: list[Recording] = []
    for rank in range(2):
        requests = LiveRequests()
        operands = [torch.randn(4, 4), torch.randn(4, 4)]
        with RequestRecorder(requests).recording():
            AutoTuner.get().choose_one("experts", [Expert(rank)], planted_tactics.CONFIG, operands)
        recordings.append(requests.recording())

    assert list(classes_of(recordings).values()) == classes


def test_a_linked_output_follows_the_tokens_and_a_workspace_does_not() -> None:
    """`bmm_fp8`'s output is one row per token; its workspace keeps its size, whatever FlashInfer's wildcard says."""
    requests = LiveRequests()
    params = (("k", 64), ("n", 48))
    workload = Workload("qkv", "gemm", "fp8_gemm", "cublas", "float8_e4m3fn", params, (32,))
    with stubbed_ops.stubbed_gemms(), RequestRecorder(requests).recording():
        gemm.build(workload, 32, "cpu", 0).run()
    (request,) = requests.recording().requests
    assert request.op == "fp8_gemm"
    follows = [one.follows for one in request.inputs]
    assert follows == [(1,), (), (), (), (1,), ()]
    assert request.inputs[1].stride_order == (0, 2, 1), "the weight is stored column by column"
    assert request.dtype == "float8_e4m3fn"


def test_requests_of_two_starts_differ_where_a_scalar_does() -> None:
    """Further arguments are part of the request."""
    spec = DynamicTensorSpec((0,), (0,), (1, 2, 4), lambda size: 4)
    digests = set()
    for stage in (1, 2, 1):
        requests = LiveRequests()
        with RequestRecorder(requests).recording():
            tuner = AutoTuner.get()
            config = replace(TUNING_CONFIG, dynamic_tensor_specs=(spec,))
            tuner.choose_one("staged", list(RUNNERS), config, [torch.randn(4, 8), torch.randn(4, 8)], gemm_idx=stage)
        digests.add(requests.recording().digest)
    assert len(digests) == 2


def test_the_tuning_configuration_is_kept_in_words() -> None:
    """What follows the tokens and how FlashInfer measures: two requests that differ in it alone are two."""
    kept: dict[bool, tuple[str, ...]] = {}
    digests = set()
    for is_cold in (False, True):
        requests = LiveRequests()
        config = replace(TUNING_CONFIG, use_cold_l2_cache=is_cold)
        with RequestRecorder(requests).recording():
            AutoTuner.get().choose_one("measured", list(RUNNERS), config, [torch.randn(4, 8), torch.randn(4, 8)])
        (request,) = requests.recording().requests
        kept[is_cold] = request.config
        digests.add(request.digest)
    assert len(digests) == 2
    assert kept[True] == ("tokens: inputs [0] dimensions [0]", "graph: False, cold cache: True")
