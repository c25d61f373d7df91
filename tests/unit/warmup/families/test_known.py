"""Which family a FlashInfer belongs to: a known release, one between two known ones, and those that are refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ray_warmup.warmup.errors import TuningError
from ray_warmup.warmup.families import known, library
from ray_warmup.warmup.families.known import FAMILIES, V0_6_18, V0_7_0, V0_7_1, V0_7_2, families_of
from tests.artifacts import ROOT


@pytest.mark.parametrize(("family", "version"), [(family, name) for family in FAMILIES for name in family.versions])
def test_a_release_that_was_read_is_of_one_family(family: object, version: str) -> None:
    """Also with the local suffix that a build for one CUDA has."""
    assert families_of(version) == (family,)
    assert families_of(f"{version}+cu130") == (family,)


def test_a_release_between_two_may_be_like_either() -> None:
    """The older neighbour comes first; between two releases of one family there is no question."""
    assert families_of("0.6.19") == (V0_6_18, V0_7_0)
    assert families_of("0.7.1.post1") == (V0_7_1, V0_7_2)
    assert families_of("0.7.2.post0") == (V0_7_2,)


@pytest.mark.parametrize(("version", "how"), [("0.6.17", "older"), ("0.7.3", "newer"), ("1.0", "newer")])
def test_others_are_refused_with_one_sentence(version: str, how: str) -> None:
    """The sentence has the version, how it stands to the known ones, and all of them."""
    with pytest.raises(TuningError, match=rf"flashinfer-python {version} is {how} than every release .*0\.7\.0\.post1"):
        families_of(version)


def test_what_no_family_has_is_named_per_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release between two that is like neither is refused with every difference from both."""
    monkeypatch.delattr(library.AutoTuner, "choose_one")
    with pytest.raises(
        TuningError, match=r"compared with 0\.6\.18\.post1: no choose_one.*with 0\.7\.0\.post1: no choose"
    ):
        library.choose_family("0.6.19")


def test_a_release_between_two_is_used_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The seams decide which neighbour it is like."""
    like = replace(library.installed_family(), versions=("0.7.9",))
    monkeypatch.setattr(known, "FAMILIES", (V0_6_18, like))
    assert library.choose_family("0.7.5") is like
    assert "0.7.5 is not known; what is used of it is as in 0.7.9" in caplog.text


def test_keys_of_another_form_are_a_difference() -> None:
    """The fields of a key in memory are compared too."""
    module = SimpleNamespace(ProfilingCacheKey=tuple, **dict.fromkeys(V0_7_2.functions, lambda: None))
    assert "keys of another form instead of custom_op, runner_class_name" in " ".join(
        V0_7_2.differences(library.AutoTuner, module)
    )


ASKING = """
import sys, torch
from pathlib import Path
found = Path(sys.argv[1])
(found / "flashinfer" / "autotuner").mkdir(parents=True)
asks = "import torch; SMS = torch.cuda.get_device_properties(0).multi_processor_count"
(found / "flashinfer" / "__init__.py").write_text(asks)
(found / "flashinfer" / "autotuner" / "__init__.py").write_text("AutoTuner = object")
(found / "flashinfer" / "autotuner" / "autotuner.py").write_text("")
sys.path.insert(0, str(found))
from importlib import metadata
metadata.version = lambda name: sys.argv[2]
asked = torch.cuda.get_device_properties
from ray_warmup.warmup.families import library
print(library.flashinfer.SMS, torch.cuda.get_device_properties is asked)
"""


@pytest.mark.parametrize(("version", "said"), [("0.6.18.post1", "0 True"), ("0.7.2", "")])
def test_a_package_that_asks_for_a_gpu_is_imported_without_one(tmp_path: object, version: str, said: str) -> None:
    """Its question is answered for the length of the import, and only where the family is known to ask."""
    command = [sys.executable, "-c", ASKING, str(tmp_path), version]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == said, done.stderr
    assert (done.returncode == 0) == bool(said)
