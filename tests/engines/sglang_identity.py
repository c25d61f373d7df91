"""Compare the settings that bind in a recorded start with those of SGLang's own server and of its own class.

    python tests/engines/sglang_identity.py MODEL_DIR ARGUMENTS_JSON      # in SGLang's environment; prints JSON

The server is given what only a server has: host, port, a label, a parser of tool calls. Nothing may differ.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from ray_warmup.configs import env
from ray_warmup.warmup.engines.sglang.arguments import server_args, words
from ray_warmup.warmup.engines.sglang.factors import binding_settings, binding_variables

SERVERS = ["--host", "0.0.0.0", "--port", "31000", "--served-model-name", "x", "--tool-call-parser", "qwen"]


def binding(resolved: Any) -> dict[str, str]:
    """Settings and variables of a start, as texts."""
    resolved.resolve_once()
    found = {
        name: json.dumps(value, default=repr) for name, value in binding_settings(resolved.resolved_dict()).items()
    }
    return found | binding_variables(env.snapshot())


def differences(one: dict[str, str], other: dict[str, str]) -> dict[str, list[str]]:
    """Names whose values differ, with both."""
    names = sorted(one.keys() | other.keys())
    return {name: [str(one.get(name)), str(other.get(name))] for name in names if one.get(name) != other.get(name)}


def main() -> None:
    """Print the differences of each way to start."""
    from sglang.srt.server_args import ServerArgs, prepare_server_args

    given = {"model_path": sys.argv[1], **json.loads(sys.argv[2])}
    ours = binding(server_args(given, "dummy"))
    served = binding(prepare_server_args([*words(given), *SERVERS]))
    library = binding(ServerArgs(**given, log_level="error"))
    print(json.dumps({"sglang serve": differences(ours, served), "sglang.Engine": differences(ours, library)}))


if __name__ == "__main__":
    main()
