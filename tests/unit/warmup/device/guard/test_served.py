"""Which size stands for those between two buckets, and how outputs are looked at in graphs and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from flashinfer.fused_moe.utils import get_hybrid_num_tokens_buckets, map_to_hybrid_bucket_uncapped

from ray_warmup.warmup.device.guard.served import REPLAYS, ServedCall, size_between, wrong_when_served
from ray_warmup.warmup.tasks import Choice
from tests import planted_tactics as planted

FAST = Choice(planted.RUNNER, planted.FAST)


@pytest.mark.parametrize("bucket", get_hybrid_num_tokens_buckets(8192))
def test_a_size_between_is_served_under_the_same_key(bucket: int) -> None:
    """Of every bucket with room below it: rounded up to it, odd, and above the next smaller one."""
    found = size_between(map_to_hybrid_bucket_uncapped, bucket)
    if bucket <= 2:
        assert found is None
    else:
        assert found is not None
        assert found < bucket
        assert found % 2 == 1
        assert map_to_hybrid_bucket_uncapped(found) == bucket


def test_an_op_that_rounds_down_or_not_at_all_has_no_size_between() -> None:
    """Nothing below a bucket is served under its key; a capped bucket has sizes below it all the same."""
    assert size_between(lambda tokens: 1 << (tokens.bit_length() - 1), 64) is None
    assert size_between(lambda tokens: tokens, 64) is None
    assert size_between(lambda tokens: min(1000, 1 << (tokens - 1).bit_length()), 1000) == 757


class GraphDevice:
    """A device with a graph that fills its outputs anew, or with the first replays only."""

    def __init__(self, good_replays: int) -> None:
        self.good_replays, self.replays, self.waits = good_replays, 0, 0

    def captured(self, run: Callable[[], list[Any]]) -> tuple[list[Any], Callable[[], None]]:
        outputs = run()
        right = [output.clone() for output in outputs]

        def replay() -> None:
            self.replays += 1
            if self.replays <= self.good_replays:
                for output, values in zip(outputs, right, strict=True):
                    output.copy_(values)

        return outputs, replay

    def wait(self) -> None:
        self.waits += 1


@pytest.mark.parametrize("good_replays", range(REPLAYS + 1))
def test_every_replay_is_looked_at(good_replays: int) -> None:
    """A graph that stops writing its outputs is found at the replay in which it does."""
    call = planted.build(0, "cpu", 32)
    served = ServedCall("the first call", call, call.run())
    device = GraphDevice(good_replays)
    reason = wrong_when_served(FAST, lambda choice, made: made.run(), device, (served, served), (), "float32")
    if good_replays == REPLAYS:
        assert reason is None
    else:
        assert reason == "the first call: not finite (against the default's output)"
    assert device.replays == min(good_replays + 1, REPLAYS)


def test_a_reference_counts_besides_the_default() -> None:
    """Where both are known, agreeing with a default that is off the reference is not enough."""
    call = planted.build(0, "cpu", 32)
    served = ServedCall("a call", call, call.run(), reference=call.reference())
    assert served.refusal(call.run(), "float32") is None
    assert served.refusal(call.run() * 1.01, "float32") is not None
    off = ServedCall("a call", call, call.run(), reference=torch.zeros(32, 32))
    assert "reference" in str(off.refusal(call.run(), "float32"))
