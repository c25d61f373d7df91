"""Dimensions that travel: read once by who asks, carried through JSON, refused where they are another model's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ray_warmup.actors.driver.warmup_run import check_request, coordinator_name
from ray_warmup.configs import ConfigError, WarmupConfig, load_config, parse_config
from ray_warmup.configs.dimensions import dimensions_of
from ray_warmup.configs.model import MODELS_DIR, load_model


def model_at(directory: Path, preset: str) -> Path:
    """A directory with the `config.json` of a preset."""
    directory.mkdir(parents=True)
    shutil.copy(MODELS_DIR / f"{preset}.json", directory / "config.json")
    return directory


def asked_for(name: str) -> WarmupConfig:
    """A config of one rank for this model."""
    return load_config("cpu_two_nodes", [f"model.name={name}"])


def test_who_receives_a_request_opens_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path that names another model, or nothing, where the receiver stands is not looked at."""
    model_at(tmp_path / "mine/tiny", "qwen3-0.6b")
    monkeypatch.chdir(tmp_path / "mine")
    sent = json.dumps(check_request(asked_for("tiny")).model_dump(mode="json"))
    here = load_model("tiny")
    model_at(tmp_path / "elsewhere/tiny", "llama-3.1-8b")
    for place in (tmp_path / "elsewhere", tmp_path):
        monkeypatch.chdir(place)
        received = parse_config(json.loads(sent))
        assert dimensions_of(received) == here
        assert coordinator_name(received).startswith("warmup-")


def test_dimensions_of_another_model_are_refused(tmp_path: Path) -> None:
    """A report's config with its model's name changed would warm the earlier model."""
    config = check_request(asked_for(str(model_at(tmp_path / "tiny", "qwen3-0.6b"))))
    document = config.model_dump(mode="json")
    for same in ("tiny", str(tmp_path / "tiny/config.json")):
        document["model"]["name"] = same
        assert dimensions_of(parse_config(document)).name == "tiny"
    document["model"]["name"] = "llama-3.1-8b"
    with pytest.raises(ConfigError, match=r"model\.name.*model\.dimensions are those of 'tiny'"):
        parse_config(document)
