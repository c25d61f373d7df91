"""Which requests another replica may make again, and the reason for each that stays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_warmup.warmup.errors import WorkloadError
from ray_warmup.warmup.workloads.recipes import RECIPES, backend_of, reason_to_stay, recipe_of, value_of
from ray_warmup.warmup.workloads.recorded_request import RecordedInput, RecordedRequest, RecordedRunner

A = RecordedInput("tensor", "bfloat16", (32, 64), (64, 1), (0,))
WEIGHT = RecordedInput("tensor", "bfloat16", (64, 48), (1, 64))
OUT = RecordedInput("tensor", "bfloat16", (32, 48), (48, 1), (0,))
WORKSPACE = RecordedInput("tensor", "uint8", (1024,), (1,))
NONE, FALSE = RecordedInput("none"), RecordedInput("value", value="False")


def request(*runners: str, keeps_default: str = "") -> RecordedRequest:
    """A `bf16_gemm` with these runners."""
    return RecordedRequest(
        op="bf16_gemm",
        runners=tuple(RecordedRunner(name, "()") for name in runners or ("CublasltBf16GemmRunner",)),
        inputs=(A, WEIGHT, NONE, FALSE, OUT, WORKSPACE),
        config=(),
        scalars=(),
        tokens=32,
        buckets=(1, 32),
        dtype="bfloat16",
        exact_sizes=False,
        keeps_default=keeps_default,
    )


@pytest.mark.parametrize(
    ("runners", "backend"),
    [
        (("CublasltBf16GemmRunner",), "cublaslt"),
        (("CudnnBf16GemmRunner", "CublasltBf16GemmRunner"), "auto"),
        (("CuteDSLDirectBf16Runner", "CuteDSLCublasltFallbackBf16Runner"), "cute-dsl"),
    ],
)
def test_the_runners_decide_on_the_backend(runners: tuple[str, ...], backend: str) -> None:
    """Several of different backends come from `auto` alone."""
    asked = request(*runners)
    assert reason_to_stay(asked) == ""
    assert backend_of(recipe_of(asked), asked) == backend


def test_dimensions_decide_on_the_function() -> None:
    """Two public functions ask for one op."""
    assert recipe_of(request()).name == "flashinfer.gemm.mm_bf16"
    batched = replace(A, shape=(2, 32, 64), stride=(2048, 64, 1), follows=(1,))
    asked = replace(request(), inputs=(batched, *request().inputs[1:]))
    assert recipe_of(asked).name == "flashinfer.gemm.bmm_bf16"


def test_every_reason_to_stay_is_told() -> None:
    """What communicates, has no recipe, holds what only the engine knows, or is offered by nobody."""
    talking = "AllReduceRunner communicates with other ranks, and no rank may wait for another one's tactic"
    packed = replace(WEIGHT, dtype="int32")
    holder = RecordedInput("value", value="LayerOptions")
    told = {
        reason_to_stay(request(keeps_default=talking)),
        reason_to_stay(replace(request(), op="trtllm::fused_moe")),
        reason_to_stay(replace(request(), inputs=())),
        reason_to_stay(replace(request(), inputs=(A, WEIGHT))),
        reason_to_stay(replace(request(), inputs=(A, packed, NONE, FALSE, OUT, WORKSPACE))),
        reason_to_stay(replace(request(), inputs=(A, WEIGHT, holder, FALSE, OUT, WORKSPACE))),
        reason_to_stay(request("NewRunner")),
    }
    assert told == {
        talking,
        "no recipe is known for trtllm::fused_moe with a first input of 2 dimensions",
        "it has no input",
        "it has 2 inputs, and flashinfer.gemm.mm_bf16 passes 6",
        "input 1 is int32, whose values only the engine knows",
        "of an object of class LayerOptions only the class is known",
        "no backend of flashinfer.gemm.mm_bf16 is known for its runners NewRunner",
    }


def test_values_come_back_from_their_text() -> None:
    """Numbers, truth values, dtypes and nothing; no expression is evaluated."""
    texts = {"False": False, "16": 16, "0.5": 0.5, "'nvfp4'": "nvfp4", "torch.bfloat16": "torch.bfloat16"}
    for text, value in texts.items():
        assert value_of(RecordedInput("value", value=text)) == value
    assert value_of(NONE) is None
    with pytest.raises(WorkloadError, match="only the class is known"):
        value_of(RecordedInput("value", value="exit()"))


def test_each_recipe_is_there_once() -> None:
    """One per op and number of dimensions, with as many arguments as the op has inputs."""
    places = [(recipe.op, recipe.dims) for recipe in RECIPES]
    assert len(set(places)) == len(places)
    for recipe in RECIPES:
        assert ("out" in recipe.arguments) == bool(recipe.out_dtype)
