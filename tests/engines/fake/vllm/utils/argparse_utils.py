"""The engine's parser of command lines."""

from __future__ import annotations

from argparse import ArgumentParser


class FlexibleArgumentParser(ArgumentParser):
    """Takes underscores for dashes, as the base class would not."""

    def parse_args(self, args: list[str]) -> object:  # type: ignore[override]
        """Read words of a command line."""
        return super().parse_args([_dashed(word) for word in args])


def _dashed(word: str) -> str:
    option, separator, value = word.partition("=")
    return option.replace("_", "-") + separator + value if word.startswith("--") else word
