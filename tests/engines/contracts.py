"""Reads what every engine's contract says in its released wheels, and its pins in their metadata, and records both.

python -m tests.engines.fetch vllm && python -m tests.engines.fetch sglang
python -m tests.engines.contracts                      # writes tests/engines/results/contracts.json
"""

from __future__ import annotations

import datetime
import email
import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

from ray_warmup.warmup.engines.adapter.contract import EngineContract
from ray_warmup.warmup.engines.sglang.versions import SGLANG
from ray_warmup.warmup.engines.vllm.versions import VLLM
from tests.artifacts import ROOT
from tests.engines.fetch import wheel_of
from tests.engines.wheel_source import WheelSource

CONTRACTS: dict[str, EngineContract] = {"vllm": VLLM, "sglang": SGLANG}
"""Distribution -> its contract."""
RESULT = ROOT / "tests" / "engines" / "results" / "contracts.json"
PINNED = ("torch", "triton", "flashinfer-python", "nvidia-cutlass-dsl")


def pins_of(wheel: Path) -> dict[str, str]:
    """Read the version rules of the libraries in PINNED, and of Python, from a wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_string(archive.read(name).decode())
    found = {"python": str(metadata["Requires-Python"])}
    for requirement in metadata.get_all("Requires-Dist") or ():
        rule, _, condition = requirement.partition(";")
        match = re.match(r"([A-Za-z0-9_.-]+)(\[[^]]*\])?\s*\(?([^)]*)\)?", rule)
        if match and "extra" not in condition and match[1].lower().replace("_", "-") in PINNED:
            found[match[1].lower().replace("_", "-")] = match[3].strip() or "any"
    return found


def row_of(name: str, version: str) -> dict[str, Any]:
    """Compare one released wheel with its contract. Exits where it was not fetched."""
    wheel = wheel_of(f"{name}=={version}")
    if wheel is None:
        sys.exit(f"{name} {version} is not here: python -m tests.engines.fetch {name}")
    differences = CONTRACTS[name].differences(version, WheelSource(wheel).text_or_none)
    return {"engine": name, "version": version, "pins": pins_of(wheel), "differences": list(differences)}


def main() -> None:
    """Read every release of every contract and replace the recorded result."""
    rows = [row_of(name, version) for name, contract in CONTRACTS.items() for version in contract.versions]
    made = {"date": datetime.date.today().isoformat(), "rows": rows}
    RESULT.write_text(json.dumps(made, indent=1) + "\n")
    sys.stdout.write(RESULT.read_text())
    sys.exit(any(row["differences"] for row in rows))


if __name__ == "__main__":
    main()
