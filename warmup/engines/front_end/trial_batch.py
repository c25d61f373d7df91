"""One batch of trial requests: rows of token ids, which differ in every row and in every batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SamplingValue = float | list[int] | dict[int, float]
"""Value of one sampling parameter: a number, token ids, or a number for each token id."""
VOCABULARY = 1000
"""Token ids of prompts lie below this."""
FIRST_ID = 3
"""The first ids of most vocabularies are special tokens."""


@dataclass(frozen=True, slots=True)
class TrialBatch:
    """Requests of one batch: equal sampling parameters but for the first `plain` rows."""

    rows: int
    prompt_tokens: int
    """Length of the prompts of these rows."""
    sampling: Mapping[str, SamplingValue]
    plain: int = 0
    """Rows that use top-p alone."""
    longer: tuple[int, ...] = ()
    """Lengths of further prompts: where not all of them fit one step, the rows before them decode beside the rest."""
    number: int = 0
    """Which batch of a start it is. No two begin alike, so that none finds its prompt in the engine's prefix cache."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Length of each row's prompt."""
        return (self.prompt_tokens,) * self.rows + self.longer


def token_rows(batch: TrialBatch) -> list[list[int]]:
    """Return the prompts of one batch as token ids, different in every row."""
    rows = []
    for row, length in enumerate(batch.lengths):
        first = FIRST_ID + (batch.number * 7 + row * 31) % VOCABULARY
        rows.append([first, *(FIRST_ID + (row * 31 + position) % VOCABULARY for position in range(1, length))])
    return rows


def sampling_of(batch: TrialBatch, row: int) -> dict[str, SamplingValue]:
    """Return the sampling parameters of one row."""
    if row < batch.plain:
        return {name: value for name, value in batch.sampling.items() if name != "top_k"}
    return dict(batch.sampling)
