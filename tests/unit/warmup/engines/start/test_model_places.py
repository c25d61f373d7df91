"""Models and the user's token stay where they are, although a start's caches are below a directory of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ray_warmup.configs.engine_schema import RealEngineSection, SglangSection, VllmSection
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.engines.node import resolution
from ray_warmup.warmup.engines.start.engine_start import EngineStart
from ray_warmup.warmup.engines.start.model_places import model_places


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/home/u"}, "/home/u/.cache/huggingface"),
        ({"HOME": "/home/u", "XDG_CACHE_HOME": "/scratch/u"}, "/scratch/u/huggingface"),
        ({"HOME": "/home/u", "XDG_CACHE_HOME": "/scratch/u", "HF_HOME": "/models"}, "/models"),
    ],
)
def test_models_are_where_the_users_environment_has_them(environ: dict[str, str], expected: str) -> None:
    """HF_HOME, else below XDG_CACHE_HOME, else below the home: the rule of the hub's library."""
    assert model_places(environ) == {"HF_HOME": expected}


class _Asked(Exception):
    """A process would have been started with this environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__("started")
        self.environ = environ


class _Starter:
    arguments: Mapping[str, str] = {}

    def start(self, module: str, request: Path, result: Path, environ: Mapping[str, str], log: Path) -> None:
        raise _Asked(environ)


@pytest.mark.parametrize(
    "section",
    [VllmSection(kind="vllm", args={"model": "a/b"}), SglangSection(kind="sglang", args={"model_path": "a/b"})],
)
@pytest.mark.parametrize("purpose", ["record", "prove"])
def test_a_start_moves_caches_and_no_models(tmp_path: Path, section: RealEngineSection, purpose: str) -> None:
    """A model by name is found in the user's own cache, with the user's token, and not downloaded anew."""
    with pytest.raises(_Asked) as asked:
        EngineStart(
            section,
            tmp_path / "caches",
            tmp_path / "start",
            {"HOME": "/home/u"},
            purpose=purpose,  # type: ignore[arg-type]
            starter=_Starter(),  # type: ignore[arg-type]
        )
    environ = asked.value.environ
    assert environ["XDG_CACHE_HOME"].startswith(str(tmp_path / "caches"))
    assert environ["HF_HOME"] == "/home/u/.cache/huggingface"


def test_a_question_moves_caches_and_no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same while a request is resolved."""

    def start(command: object, environ: Mapping[str, str], log: Path) -> None:
        raise _Asked(environ)

    monkeypatch.setattr(resolution, "ChildProcess", start)
    monkeypatch.setattr(resolution, "hidden_plugin", lambda *_: None)
    section = VllmSection(kind="vllm", args={"model": "a/b"})
    with pytest.raises(_Asked) as asked:
        resolution.resolve_here(section, CacheSection(), {"HOME": "/home/u"}, deadline_s=1)
    assert asked.value.environ["HF_HOME"] == "/home/u/.cache/huggingface"
