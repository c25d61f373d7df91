"""A tuner factory is named by `module:callable`; a library that a core installation lacks is named."""

from __future__ import annotations

import sys

import pytest

from ray_warmup.warmup.device.factory import FLASHINFER_TUNER, load_factory
from ray_warmup.warmup.errors import TuningError


def test_a_name_becomes_its_callable() -> None:
    """The part after the colon is looked up in the imported module."""
    from tests.fakes import make_scripted_tuner

    assert load_factory("tests.fakes:make_scripted_tuner") is make_scripted_tuner


@pytest.mark.parametrize(
    ("module", "distribution"), [("torch", "torch"), ("flashinfer.autotuner", "flashinfer-python")]
)
def test_a_library_that_is_not_installed_is_named(
    module: str, distribution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the distribution and the extra that brings it."""
    for name in (FLASHINFER_TUNER.partition(":")[0], "ray_warmup.warmup.families.library"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(TuningError, match=rf"{distribution} is not installed.*ray-warmup\[cpu\]"):
        load_factory(FLASHINFER_TUNER)


def test_a_module_of_the_users_own_that_is_missing_is_the_importers_error() -> None:
    """An unknown module is not taken for a missing library."""
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        load_factory("nowhere:make")
