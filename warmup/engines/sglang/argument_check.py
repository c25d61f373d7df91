"""The child process in which SGLang's own parser reads the arguments of a config (`adapter/argument_check.py`)."""

from __future__ import annotations

import sys

from ray_warmup.warmup.engines.adapter.argument_check import answer
from ray_warmup.warmup.engines.sglang.arguments import server_args

if __name__ == "__main__":
    sys.exit(answer(server_args))
