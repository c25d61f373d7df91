"""Commands of a real engine on a CPU, each in a process of its engine's environment, and the result that is kept."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Answer = dict[str, Any]
"""One command's document for machines."""


@dataclass(frozen=True, slots=True)
class CpuRun:
    """Engine commands with one config in one home."""

    binaries: Path
    """Of the engine's environment."""
    scratch: Path
    """Home of the commands, with the config and the node's store."""
    environ: Mapping[str, str]

    @property
    def model(self) -> Path:
        """Return the directory of the model's config."""
        return self.scratch / "model"

    def command(self, name: str) -> Answer:
        """Run one `ray-warmup engine` command. Raises SystemExit where it prints nothing."""
        config = str(self.scratch / "config.yaml")
        words = [str(self.binaries / "ray-warmup"), "engine", name, "--config", config, "--json"]
        done = subprocess.run(words, env=self.environ, cwd=self.scratch, stdout=subprocess.PIPE, text=True, check=False)
        if not done.stdout.strip():
            raise SystemExit(f"`{' '.join(words)}` ended with {done.returncode} and printed nothing")
        answer: Answer = json.loads(done.stdout.strip().splitlines()[-1])
        return answer


def cpu_run(
    binaries: Path, scratch: Path, model: Answer, engine: Answer, variables: Mapping[str, str], **sections: Answer
) -> CpuRun:
    """Write a model's config and a run's config into an empty home.

    Args:
        binaries: of the engine's environment.
        scratch: the empty home.
        model: its config.json.
        engine: section of the config, whose arguments are completed with the model.
        variables: of the engine.
        sections: further ones of the config.
    """
    environ = {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "HOME": str(scratch),
        "RAY_WARMUP_CACHE_ROOT": str(scratch / "root"),
        "HF_HUB_OFFLINE": "1",
    }
    run = CpuRun(binaries, scratch, {**environ, **variables})
    run.model.mkdir()
    (run.model / "config.json").write_text(json.dumps(model))
    section = {**engine, "args": {"model": str(run.model), **engine["args"]}}
    document = {"cluster": {"world_size": 1, "backend": "cpu"}, "engine": section, **sections}
    (scratch / "config.yaml").write_text(json.dumps(document))
    return run


def keep(path: Path, engine: str, record: Answer, proofs: Sequence[Answer], **more: Any) -> bool:
    """Write down what the commands took and show it. Returns True if every proof holds."""
    made = {
        "date": datetime.date.today().isoformat(),
        "engine": engine,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "kinds": record["kinds"],
        "recorded_seconds": record["seconds"],
        "proofs": [_shown(proof) for proof in proofs],
        **more,
    }
    path.write_text(json.dumps(made, indent=1) + "\n")
    sys.stdout.write(path.read_text())
    return all(proof["proven"] for proof in proofs)


def _shown(proof: Answer) -> Answer:
    (rank,) = proof["ranks"]
    return {
        "proven": proof["proven"],
        "problems": proof["problems"],
        "seconds": proof["seconds"],
        "placed": rank["placed"],
        "found": rank["counts"]["found"],
        "compiled": rank["counts"]["compiled"],
        "own_seconds": rank["own_seconds"],
    }
