"""A share of the fuzzing in every run, and for every kind of finding a planted reader in which it is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_warmup.configs import ConfigError, load_config, parse_config
from ray_warmup.configs.model import parse_model
from ray_warmup.warmup.artifact.file_key import parse_file_key
from ray_warmup.warmup.artifact.fingerprint import METADATA_FIELDS
from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.errors import ArtifactError, CorruptArtifactError
from tests.artifacts import ROOT
from tests.fuzz.campaign import MAX_GROWTH_BYTES, MAX_MESSAGE, fuzz
from tests.fuzz.readers import READERS, Reader

CASES = 4_000
METADATA = dict.fromkeys(METADATA_FIELDS, "1")


def test_a_share_of_the_inputs_finds_nothing() -> None:
    """Every reader takes its samples and refuses damaged ones by name, in a process of 4 GiB, writing nowhere else."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", "--cases", str(CASES)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = [line.split("|") for line in ran.stdout.splitlines()]
    assert {row[1].strip(): int(row[2]) for row in rows} == {reader.name: CASES // len(READERS) for reader in READERS}
    assert all(int(row[3]) > 0 for row in rows), "some reader takes nothing, not even its samples"
    assert all(int(row[5]) == 0 for row in rows)


def planted(read: Callable[[bytes, Path], None]) -> Reader:
    """A reader with a defect."""
    return Reader("planted", (b"sample",), read, (ArtifactError,), lambda rng, samples: rng.randbytes(8))


def write_beside(data: bytes, own: Path) -> None:
    """Writes where it must not."""
    (own.parent / "elsewhere").write_bytes(data)


def climb(data: bytes, own: Path) -> None:
    """Makes a directory through `..`."""
    (own / ".." / data.hex()).mkdir()


def start_a_process(data: bytes, own: Path) -> None:
    """Runs something."""
    subprocess.run(["true"], check=True)


def raise_type_error(data: bytes, own: Path) -> None:
    """Has an error that is none of ours."""
    raise TypeError("not ours")


def nest(data: bytes, own: Path) -> None:
    """Runs out of stack."""
    nest(data, own)


def refuse_at_length(data: bytes, own: Path) -> None:
    """Quotes everything it was given."""
    raise CorruptArtifactError("x" * (MAX_MESSAGE + 1))


def refuse_unprintably(data: bytes, own: Path) -> None:
    """Quotes what no terminal prints."""
    raise CorruptArtifactError("\ud800")


def take_long(data: bytes, own: Path) -> None:
    """Burns time."""
    end = time.process_time() + 0.02
    while time.process_time() < end:
        pass


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (write_beside, "outside its directory: open"),
        (climb, "outside its directory: os.mkdir"),
        (start_a_process, "outside its directory: subprocess.Popen"),
        (raise_type_error, "TypeError: 'not ours'"),
        (nest, "RecursionError"),
        (refuse_at_length, "has a message of"),
        (refuse_unprintably, "no terminal can print"),
        (take_long, "s of CPU for"),
    ],
)
def test_a_planted_defect_is_found(
    read: Callable[[bytes, Path], None], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thing that a reader must not do is a finding that says so."""
    monkeypatch.setattr("tests.fuzz.campaign.SLOW_S", 0.01 if read is take_long else 60)
    result = fuzz(planted(read), 2, 0, tmp_path / "own")
    assert any(said in finding for finding in result.findings), result.findings


def test_growth_is_found(tmp_path: Path) -> None:
    """More memory than a campaign may need is a finding."""
    sizes = iter([0, 0, MAX_GROWTH_BYTES + 1, MAX_GROWTH_BYTES + 1])
    result = fuzz(planted(lambda data, own: None), 2, 0, tmp_path / "own", peak=lambda: next(sizes))
    assert [finding for finding in result.findings if "MiB more memory" in finding]


def test_a_harmless_reader_has_no_findings(tmp_path: Path) -> None:
    """A reader that writes into its own directory and refuses by name is not blamed."""

    def read(data: bytes, own: Path) -> None:
        (own / "file").write_bytes(data)
        os.link(own / "file", own / "again")
        raise CorruptArtifactError("no")

    result = fuzz(planted(read), 5, 0, tmp_path / "own")
    assert (result.findings, result.counts) == ([], {"CorruptArtifactError": 5})


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


def taken(read: Callable[[], Any], refusals: type[Exception]) -> Any:
    """What was read; None when it was refused in words that a terminal can print."""
    try:
        return read()
    except refusals as refusal:
        words = str(refusal)
    assert 0 < len(words.encode()) < MAX_MESSAGE
    return None


SECTIONS = ("cluster", "model", "autotune", "guard", "engine", "cache", "timeouts", "other")
FIELDS = ("world_size", "name", "buckets", "margin", "deadlines", "file_mode", "task", "node_labels", "x")


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(SECTIONS), st.dictionaries(st.sampled_from(FIELDS), plain, max_size=4) | plain))
def test_any_values_are_a_config_or_refused(data: dict[str, object]) -> None:
    """Plain values of any form are refused as ConfigError, briefly, or give a config that survives JSON."""
    config = taken(lambda: parse_config(data), ConfigError)
    assert config is None or parse_config(config.model_dump(mode="json")) == config


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_override_is_applied_or_refused(text: str) -> None:
    """Text of any form after `--set`, as a whole and as a value, is a ConfigError or a config."""
    for override in (text, f"guard.margin={text}", f"cluster.node_labels.{text}=a"):
        given = ["cluster.world_size=2", "model.name=a", override]
        config = taken(lambda given=given: load_config(None, given), ConfigError)  # type: ignore[misc]
        assert config is None or parse_config(config.model_dump(mode="json")) == config


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(("architectures", "hidden_size", "num_attention_heads", "kv_lora_rank")), plain))
def test_any_model_is_refused_by_name(data: dict[str, object]) -> None:
    """Fields of any form without the rest of a model are a ConfigError, also where dimensions are derived from them."""
    for listed in (["LlamaForCausalLM"], ["DeepseekV3ForCausalLM"], data.get("architectures")):
        with pytest.raises(ConfigError):
            parse_model("m", {**data, "architectures": listed})


@settings(deadline=None)
@given(st.text(max_size=60), plain)
def test_any_key_and_row_are_a_table_or_refused(key: str, row: object) -> None:
    """Text of any form as a key, values of any form as its row: an ArtifactError or a table."""
    table = json.dumps({"_metadata": METADATA, key: row}).encode()
    taken(lambda: parse_file_key(key), ArtifactError)
    assert taken(lambda: parse_table(table), ArtifactError) is None or key.startswith("_")
