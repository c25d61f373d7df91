"""A state directory of its own for each test, and no rule left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.signing.keys import SigningKey, new_key, write_pair
from ray_warmup.warmup.signing.policy import believe


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield
    believe(CacheSection())


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    """A key whose files are `signer.key` and `signer.pub`."""
    made = new_key()
    write_pair(made, tmp_path / "signer.key", tmp_path / "signer.pub")
    return made
