"""Recipes by which a process without the engine makes a request again: a public function of an op, and its arguments.

A request is made again from its form alone. Floating inputs are drawn as for every recorded request
(`fresh_inputs.py`); integers and objects have a meaning that only the engine knows, so a request that needs one stays
with the replica that recorded it. Whether what a recipe makes is the recorded request is checked where it is made
(`device/rebuilding.py`). Imports neither torch nor FlashInfer.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from ray_warmup.warmup.errors import WorkloadError
from ray_warmup.warmup.workloads.recorded_request import RecordedInput, RecordedRequest

NOT_DRAWN = ("int", "uint", "bool", "float4", "e8m0")
"""Parts of dtype names whose values are not drawn."""
TORCH_PREFIX = "torch."


@dataclass(frozen=True, slots=True)
class Recipe:
    """One op's public function and how a recorded request becomes its arguments."""

    op: str
    """FlashInfer's name of the op in a request."""
    function: str
    """`module:name`."""
    arguments: tuple[str, ...]
    """Name of the argument that each input is, in the op's order; empty for what the function makes itself."""
    dims: int
    """Dimensions of the first input: functions that ask for one op differ in them."""
    out_dtype: str = ""
    """Argument that takes the dtype of the input `out`; empty if there is none."""
    backends: tuple[tuple[str, str], ...] = ()
    """(class of a runner, value of the argument `backend` that offers it); empty without such an argument."""

    @property
    def name(self) -> str:
        """The function for people: `flashinfer.gemm.bmm_fp8`."""
        return self.function.replace(":", ".")


_BF16_RUNNERS = (
    ("CublasltBf16GemmRunner", "cublaslt"),
    ("CudnnBf16GemmRunner", "cudnn"),
    ("CutlassBf16GemmRunner", "cutlass"),
    ("TGVRunner", "tgv"),
    ("TinyGemmBf16GemmRunner", "tinygemm"),
    ("CuteDSLSplitKBf16Runner", "cute-dsl"),
    ("CuteDSLWarpSplitKBf16Runner", "cute-dsl"),
    ("CuteDSLDirectBf16Runner", "cute-dsl"),
    ("CuteDSLCublasltFallbackBf16Runner", "cute-dsl"),
)

RECIPES = (
    # `mm_fp8` asks for the same op with a batch of one, which this function asks for, too.
    Recipe(
        op="fp8_gemm",
        function="flashinfer.gemm:bmm_fp8",
        arguments=("A", "B", "A_scale", "B_scale", "out", ""),
        dims=3,
        out_dtype="dtype",
        backends=(
            ("CublasFp8GemmRunner", "cublas"),
            ("CudnnFp8GemmRunner", "cudnn"),
            ("CutlassFp8GemmRunner", "cutlass"),
            ("CuteDslFp8GemmRunner", "cute-dsl"),
        ),
    ),
    Recipe(
        op="bf16_gemm",
        function="flashinfer.gemm:mm_bf16",
        arguments=("a", "b", "bias", "pdl", "out", ""),
        dims=2,
        out_dtype="out_dtype",
        backends=_BF16_RUNNERS,
    ),
    Recipe(
        op="bf16_gemm",
        function="flashinfer.gemm:bmm_bf16",
        arguments=("A", "B", "", "", "out", ""),
        dims=3,
        out_dtype="out_dtype",
        backends=_BF16_RUNNERS,
    ),
    Recipe(
        op="cpu_gemm",
        function="ray_warmup.warmup.workloads.cpu_gemm_op:cpu_gemm",
        arguments=("a", "weight"),
        dims=2,
    ),
)


def recipe_of(request: RecordedRequest) -> Recipe:
    """Return the recipe of a request. Raises WorkloadError with the reason where it has none."""
    if request.keeps_default:
        raise WorkloadError(request.keeps_default, op=request.op)
    if not request.inputs:
        raise WorkloadError("it has no input", op=request.op)
    dims = len(request.inputs[0].shape)
    for recipe in RECIPES:
        if recipe.op == request.op and recipe.dims == dims:
            _check(recipe, request)
            return recipe
    raise WorkloadError(f"no recipe is known for {request.op} with a first input of {dims} dimensions", op=request.op)


def reason_to_stay(request: RecordedRequest) -> str:
    """Return the reason why no other replica can measure a request, or an empty string."""
    try:
        recipe_of(request)
    except WorkloadError as error:
        return str(error)
    return ""


def backend_of(recipe: Recipe, request: RecordedRequest) -> str:
    """Return the argument `backend` that offers the request's runners, empty for a function without one."""
    if not recipe.backends:
        return ""
    known = dict(recipe.backends)
    found = {known[name] for name in request.runner_names}
    if len(found) > 1:
        return "auto"
    return found.pop()


def value_of(recorded: RecordedInput) -> Any:
    """Return the number, text or None that an input's text stands for.

    A torch dtype stays `torch.<name>`.

    Raises WorkloadError for an object, of which only the class is known.
    """
    if recorded.kind == "none" or recorded.value.startswith(TORCH_PREFIX):
        return recorded.value or None
    try:
        return ast.literal_eval(recorded.value)
    except (ValueError, SyntaxError):
        raise WorkloadError(f"of an object of class {recorded.value} only the class is known") from None


def _check(recipe: Recipe, request: RecordedRequest) -> None:
    """Raise WorkloadError where an input or a runner is none that the recipe covers."""
    if len(request.inputs) != len(recipe.arguments):
        raise WorkloadError(
            f"it has {len(request.inputs)} inputs, and {recipe.name} passes {len(recipe.arguments)}", op=request.op
        )
    for index, (name, one) in enumerate(zip(recipe.arguments, request.inputs, strict=True)):
        if not name:
            continue
        if one.kind != "tensor":
            value_of(one)
        elif any(part in one.dtype for part in NOT_DRAWN):
            raise WorkloadError(f"input {index} is {one.dtype}, whose values only the engine knows", op=request.op)
    unknown = set(request.runner_names) - set(dict(recipe.backends))
    if recipe.backends and unknown:
        names = ", ".join(sorted(unknown))
        raise WorkloadError(f"no backend of {recipe.name} is known for its runners {names}", op=request.op)
