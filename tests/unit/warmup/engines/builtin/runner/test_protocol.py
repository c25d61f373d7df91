"""The runner protocol: nothing is swallowed, nothing is asked of a runner that says it lacks it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest

from ray_warmup.warmup.engines.builtin.runner.errors import MissingCapabilityError, SwallowedArgumentError
from ray_warmup.warmup.engines.builtin.runner.protocol import (
    Capability,
    backend_names,
    call_dummy_run,
    lacking,
    optional,
)
from tests.fakes import NamedBackend


class Swallower:
    """A runner whose `dummy_run` takes anything and acts on `is_profile` only."""

    capabilities = frozenset(Capability)

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def dummy_run(self, num_tokens: int, *, is_profile: bool = False, **kwargs: Any) -> None:
        self.calls.append({"num_tokens": num_tokens, "is_profile": is_profile, **kwargs})


def test_an_argument_that_would_be_swallowed_is_an_error() -> None:
    """An argument that only `**kwargs` would take is refused before the call, by name."""
    runner: Any = Swallower()

    with pytest.raises(
        SwallowedArgumentError, match=r"Swallower\.dummy_run would ignore force_attention, profile_seq_lens"
    ):
        call_dummy_run(runner, 4, is_profile=True, force_attention=True, profile_seq_lens=8)

    assert runner.calls == []


def test_an_undeclared_argument_is_a_missing_capability() -> None:
    """A runner that does not declare an argument is not called with it."""
    runner: Any = Swallower()
    runner.capabilities = frozenset({Capability.DUMMY_RUN, Capability.IS_PROFILE})

    with pytest.raises(MissingCapabilityError, match="runner lacks create_mixed_batch"):
        call_dummy_run(runner, 4, create_mixed_batch=True)
    call_dummy_run(runner, 4, is_profile=True, create_mixed_batch=False, profile_seq_lens=None)

    assert runner.calls == [{"num_tokens": 4, "is_profile": True}]


def test_lacking_names_every_missing_capability() -> None:
    """The reason lists what is missing; a runner that has all gives no reason."""
    runner: Any = Swallower()
    assert lacking(runner, Capability.GRAMMAR) is None

    runner.capabilities = frozenset()

    assert lacking(runner, Capability.GRAMMAR, Capability.SLOT_MAPPING) == "runner lacks grammar, slot_mapping"


def test_an_abstract_backend_has_no_name() -> None:
    """A backend whose `get_name` raises NotImplementedError is left out; the others are kept."""
    runner: Any = Swallower()
    runner.attention_backends = (NamedBackend(None), NamedBackend("FLASHINFER"))

    assert backend_names(runner) == ("FLASHINFER",)


def test_optional_attributes_may_be_missing() -> None:
    """A runner without an optional attribute gives None."""
    runner: Any = Swallower()

    assert optional(runner, "positions") is None
    assert optional(runner, "calls") == []


def test_runner_errors_keep_their_details_through_pickling() -> None:
    """A runner's refusal arrives in another process with its class, message and details."""
    error = SwallowedArgumentError("ignored", runner="R", arguments="x")

    again = pickle.loads(pickle.dumps(error))

    assert (type(again), str(again), again.details) == (SwallowedArgumentError, "ignored", error.details)


def test_the_protocol_and_the_values_import_neither_torch_nor_flashinfer() -> None:
    """Orchestration may import the protocol, the schedule and the cache shape without paying for torch."""
    code = (
        "import sys\n"
        "from ray_warmup.warmup.engines.builtin.runner import dummy, kv_cache, padded_sizes, protocol, schedule\n"
        "from ray_warmup.warmup.engines.builtin.runner import scheduler\n"
        "import ray_warmup.warmup.engines.builtin.kernels\n"
        "sys.exit(' '.join(m for m in ('torch', 'triton', 'flashinfer') if m in sys.modules) or None)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
