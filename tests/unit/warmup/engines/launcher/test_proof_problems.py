"""A kind that is not shipped and is compiled anyway: the proof does not hold, and the reason says that it never can."""

from __future__ import annotations

from typing import Any

from ray_warmup.warmup.engines.artifacts.rank_record import CompileCounts, RankRecord
from ray_warmup.warmup.engines.launcher.proof import problems_of
from ray_warmup.warmup.engines.start.engine_start import Started

WARM: dict[str, Any] = {
    "rank": 0,
    "pid": 1,
    "identity": (("cuda", "13.0"),),
    "settings": {},
    "compile_factors": {},
    "places": (),
    "modules": (),
    "deaf": {},
    "watched": (),
    "specialisations": (),
    "placed": {},
    "lookup": "hit",
    "own_seconds": 0.1,
    "module_requirements": {},
    "is_warm": True,
}
"""A rank's record without its counts."""


def told(**compiled: int) -> Started:
    """A warm start on a GPU that hit and has compiled this."""
    names = tuple(f"{kind}: a_kernel" for kind in compiled)
    counts = CompileCounts(dict(compiled), {}, names)
    return Started({}, (RankRecord(counts=counts, **WARM),), (), "")


def test_what_is_not_carried_is_named_with_its_reason() -> None:
    """An operator sees that another recording would not help, and what would."""
    (problem,) = problems_of(told(cute_dsl=2))
    assert problem.startswith(
        "rank 0: cute_dsl: 2 compiled: cute_dsl: a_kernel; this kind is not carried (`cute.compile"
    )
    assert problem.endswith("engine.proof off runs without a proof")


def test_what_is_carried_is_named_alone() -> None:
    """Its artifact lacks an entry."""
    assert problems_of(told(flashinfer_module=1)) == [
        "rank 0: flashinfer_module: 1 compiled: flashinfer_module: a_kernel"
    ]
