"""An engine's release: known, between two known ones, or refused with what differs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ray_warmup.warmup.engines.adapter.contract import EngineContract
from ray_warmup.warmup.engines.vllm import versions
from ray_warmup.warmup.errors import EngineError

SOURCE = "DIRECTORY = 'cache'\nclass Worker:\n    def start(self, device, /, rank): ...\n"
CONTRACT = EngineContract(
    name="Engine",
    package="planted_engine",
    versions={"1.0.0": "read", "1.2.0": "read"},
    functions={"planted_engine/worker.py": {"Worker.start": ("self", "device", "rank")}},
    words={"planted_engine/worker.py": ("'cache'",)},
    changed={"1.0.0": {"planted_engine/worker.py": {"Worker.start": ("self", "device")}}},
)


def reading(source: str | None) -> str:
    """Say of version 1.1.0 with this source why it is refused."""
    return CONTRACT.refusal("1.1.0", lambda _: source)


def test_a_known_release_is_served_without_reading() -> None:
    """Also with the local part of its version."""
    assert CONTRACT.refusal("1.2.0+cu130", lambda _: pytest.fail("it was read")) == ""


@pytest.mark.parametrize(("parameters", "neighbour"), [("self, device", "1.0.0"), ("self, device, rank", "1.2.0")])
def test_a_release_between_two_is_served_with_a_warning(
    caplog: pytest.LogCaptureFixture, parameters: str, neighbour: str
) -> None:
    """It has to be like one of its neighbours in everything that is used."""
    assert reading(f"D = 'cache'\nclass Worker:\n    async def start({parameters}): ...\n") == ""
    assert f"Engine 1.1.0 is not known; what is used of it is as in {neighbour}" in caplog.text


def test_a_release_that_differs_is_refused_with_every_difference() -> None:
    """Against both neighbours: parameters, words, names and whole files."""
    said = reading("class Worker:\n    def start(self, device, node): ...\n")
    assert "compared with 1.0.0: Worker.start(self, device, node) instead of (self, device)" in said
    assert "compared with 1.2.0: Worker.start(self, device, node) instead of (self, device, rank)" in said
    assert said.count("planted_engine/worker.py has no 'cache'") == 2
    assert "planted_engine/worker.py has no Worker.start" in reading("Worker = 'cache'\n")
    assert "no planted_engine/worker.py" in reading(None)


@pytest.mark.parametrize("version", ["0.9", "1.2.1"])
def test_a_release_outside_is_refused_by_name(version: str) -> None:
    """Older or newer than everything that was read."""
    why = CONTRACT.refusal(version, lambda _: SOURCE)
    assert why == f"Engine {version} is not known to this version of ray-warmup, which knows 1.0.0, 1.2.0"


def test_the_installed_package_is_read_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its source is found on the module path."""
    package = tmp_path / "planted_engine"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "worker.py").write_text(SOURCE)
    assert CONTRACT.read_installed("planted_engine/worker.py") is None
    monkeypatch.syspath_prepend(str(tmp_path))
    assert CONTRACT.read_installed("planted_engine/worker.py") == SOURCE
    assert CONTRACT.refusal("1.1.0") == ""
    assert "planted_engine" not in sys.modules


def test_vllm_is_refused_by_name() -> None:
    """The check of vLLM's version names every release that was read."""
    versions.check("0.29.0")
    with pytest.raises(EngineError, match=r"vLLM 0\.28\.0 is not known to .* which knows 0\.29\.0, 0\.30\.0"):
        versions.check("0.28.0")
