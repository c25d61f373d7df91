"""Arguments of a config as vLLM's own command line takes them, and the engine configuration that they resolve to.

Runs in a child process that imports vLLM; vLLM's own parser reads every value, so that lists, truth values, nested
JSON and dotted names mean what they mean to `vllm serve`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from ray_warmup.warmup.errors import EngineRequestError

SIZES = ("max_num_batched_tokens", "max_num_seqs")
"""Arguments whose defaults depend on who starts the engine."""


def words(arguments: Mapping[str, JsonValue]) -> list[str]:
    """Write arguments as words of a command line.

    A truth value is the option or its `--no-` form, null leaves the option out.
    """
    line: list[str] = []
    for name, value in arguments.items():
        head, dot, rest = name.partition(".")
        option = head.replace("_", "-") + dot + rest
        if value is None:
            continue
        if isinstance(value, bool) and dot:
            line += [f"--{option}", json.dumps(value)]
        elif isinstance(value, bool):
            line.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, dict):
            line += [f"--{option}", json.dumps(value)]
        elif isinstance(value, list):
            line.append(f"--{option}")
            for item in value:
                line.append(json.dumps(item) if isinstance(item, dict | list) else str(item))
        else:
            line.append(f"--{option}={value}")
    return line


def engine_args(arguments: Mapping[str, JsonValue], load_format: str) -> Any:
    """Return vLLM's `EngineArgs` for the arguments of a config.

    Raises EngineRequestError for an argument that vLLM refuses.
    """
    from vllm.engine.arg_utils import EngineArgs

    parsed = EngineArgs.from_cli_args(_parse(words(arguments)))
    parsed.load_format = load_format
    parsed.skip_tokenizer_init = True
    return parsed


def resolve_configuration(arguments: Any, usage: str) -> Any:
    """Return vLLM's configuration, with sizes that are not given set in the arguments as the server or `LLM` would."""
    from vllm.usage.usage_lib import UsageContext

    context = UsageContext.OPENAI_API_SERVER if usage == "serve" else UsageContext.LLM_CLASS
    return arguments.create_engine_config(context)


def _parse(line: Sequence[str]) -> Any:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]
        """vLLM's parser, which tells a fault instead of ending the process."""

        def error(self, message: str) -> Any:
            """Raise what the command line would print."""
            raise EngineRequestError(f"engine.args: vLLM refuses them: {message}")

    parser = Parser(add_help=False, allow_abbrev=False)
    EngineArgs.add_cli_args(parser)
    return parser.parse_args(list(line))
