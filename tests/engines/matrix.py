"""Writes ENGINES.md and its JSON from what was recorded: contracts, pins, resolutions and starts. Nothing by hand.

    ./scripts/engine_matrix            # writes ENGINES.md and tests/engines/results/matrix.json
    ./scripts/engine_matrix --check    # ends with 1 where they are not what would be written

The records are made by `tests/engines/{contracts,resolve,vllm_cpu,flashinfer_family}.py` and the studies in
`tests/gpu/results/`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray_warmup.warmup.families.known import FAMILIES
from tests.artifacts import ROOT
from tests.engines.contracts import CONTRACTS

RESULTS = ROOT / "tests" / "engines" / "results"
STUDIES = ROOT / "tests" / "gpu" / "results"
JSON, PAGE, README = RESULTS / "matrix.json", ROOT / "ENGINES.md", ROOT / "README.md"
BEGIN, END = "<!-- engines: ./scripts/engine_matrix -->", "<!-- end of engines -->"


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One release of one engine."""

    engine: str
    version: str
    torch: str
    flashinfer: str
    family: str
    """The newest release of the FlashInfer family, or `unknown`."""
    adapter: str
    contract: str
    resolves: str
    cpu_start: str
    gpu_start: str
    table_hits: str
    cache_kinds: str


@dataclass(frozen=True, slots=True)
class FlashInferRow:
    """One release of FlashInfer."""

    version: str
    entry_columns: int
    ranks_in_moe_keys: bool
    modules: str
    tuned_on_cpu: str


def read(path: Path) -> Any:
    """The JSON of a record, None where it was not made."""
    return json.loads(path.read_text()) if path.is_file() else None


def engine_rows() -> list[EngineRow]:
    """Every release of every contract, newest first."""
    contracts = read(RESULTS / "contracts.json")
    recorded = {(row["engine"], row["version"]): row for row in contracts["rows"]}
    resolutions = {row["engine"]: row for row in read(RESULTS / "resolution.json")["engines"]}
    rows = []
    for name, contract in CONTRACTS.items():
        for version in reversed(contract.versions):
            row = recorded[name, version]
            flashinfer = row["pins"]["flashinfer-python"].removeprefix("==")
            cpu, kinds = cpu_start(name, version)
            kinds = placed_on_gpu(name, version) or kinds
            rows.append(
                EngineRow(
                    engine=contract.name,
                    version=version,
                    torch=row["pins"]["torch"].removeprefix("=="),
                    flashinfer=flashinfer,
                    family=family_of(flashinfer),
                    adapter=adapter_of(name),
                    contract=f"passes ({contracts['date']})" if not row["differences"] else "differs",
                    resolves=resolved(resolutions.get(f"{name}=={version}")),
                    cpu_start=cpu,
                    gpu_start=gpu_start(name, version),
                    table_hits=table_hits(name, version),
                    cache_kinds=kinds,
                )
            )
    return rows


def adapter_of(name: str) -> str:
    """An engine has an adapter where its package here has a plugin."""
    directory = ROOT / "warmup" / "engines" / name
    return f"warmup/engines/{name}" if (directory / "plugin.py").is_file() else "contract only"


def family_of(version: str) -> str:
    """The newest release of the family of a FlashInfer."""
    return next((family.versions[-1] for family in FAMILIES if version in family.versions), "unknown")


def resolved(row: dict[str, Any] | None) -> str:
    """What pip said of an engine beside this project's wheel."""
    if row is None:
        return "not tried"
    if not row["resolves"]:
        return "no"
    return f"yes, without {row['left_out']}" if row.get("left_out") else "yes"


def cpu_start(name: str, version: str) -> tuple[str, str]:
    """The recorded start on a processor, and the cache kinds that it recorded."""
    for path in sorted(RESULTS.glob(f"{name}_cpu*.json")):
        found = read(path)
        if found["engine"] == f"{name}-cpu=={version}" and "proofs" in found:
            held = sum(bool(proof["proven"]) for proof in found["proofs"])
            kinds = [kind for kind in found["kinds"] if kind != "engine_record"]
            return f"{held} of {len(found['proofs'])} proofs held ({found['date']})", ", ".join(kinds)
    return "not run", ""


def gpu_start(name: str, version: str) -> str:
    """The measured starts of exactly this release, or the study of it."""
    measured = read(STUDIES / "engine_table.json")
    if measured["versions"].get(name) == version:
        return f"[warm on {measured['machines'].partition(' of ')[0]}](tests/gpu/results/engine_table.md)"
    if sglang_ranks(name, version):
        return "[warm on NVIDIA H200](tests/gpu/results/sglang_table.md)"
    found = read(STUDIES / f"{name}_study.json")
    if found is None or found["versions"].get(name) != version:
        return "not run"
    return f"[studied on {found['machine'].partition(',')[0]}](tests/gpu/results/{name}_study.md)"


def placed_on_gpu(name: str, version: str) -> str:
    """The cache kinds that were placed in measured starts of exactly this release."""
    measured = read(STUDIES / "engine_table.json")
    kinds: set[str] = set()
    for rank in sglang_ranks(name, version):
        kinds.update(kind for kind, entries in rank["placed"].items() if entries)
    if measured["versions"].get(name) != version:
        return ", ".join(sorted(kinds))
    for machine in ("first machine", "second machine"):
        for row in measured[machine]["rows"]:
            for rank in row.get("ranks", []):
                kinds.update(kind for kind, entries in rank.get("placed", {}).items() if entries)
    return ", ".join(sorted(kinds))


def table_hits(name: str, version: str) -> str:
    """Recorded keys that were hit in a proof start of exactly this release on a GPU."""
    tables = [rank["table"] for rank in sglang_ranks(name, version)]
    found = read(STUDIES / ("sglang_table.json" if tables else "own_calls.json"))
    if found is None or found["versions"].get(name) != version:
        return "not seen"
    tables = tables or found["table"]
    hits = sum(table["hits"] for table in tables)
    return f"{hits} of {sum(table['entries'] for table in tables)} keys ({found['versions']['date']})"


def sglang_ranks(name: str, version: str) -> list[Any]:
    """Ranks of a proof on a GPU that held, of exactly this release of SGLang."""
    found = read(STUDIES / "sglang_table.json")
    if name != "sglang" or found["versions"]["sglang"] != version:
        return []
    proof = found["second machine"]["prove"]
    return list(proof["ranks"]) if proof["holds"] else []


def flashinfer_rows() -> list[FlashInferRow]:
    """Every release of every family, newest first."""
    rows = []
    for family in reversed(FAMILIES):
        for version in reversed(family.versions):
            rows.append(
                FlashInferRow(
                    version, family.entry_width, family.ranks_in_moe_keys, family.modules_through, tuned_on_cpu(version)
                )
            )
    return rows


def tuned_on_cpu(version: str) -> str:
    """What tuning, publishing, loading and hitting on the CPU with this release gave."""
    if f"flashinfer-python=={version}\n" in (ROOT / "constraints.txt").read_text():
        return "every test without a GPU"
    found = read(RESULTS / f"flashinfer_{version}.json")
    if found is None:
        return "not run"
    hits, tasks = (sum(step[name] for step in found["steps"].values()) for name in ("hits", "tasks"))
    return f"{hits} of {tasks} lookups hit ({found['date']})"


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """A Markdown table."""
    names = list(columns)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return lines + ["| " + " | ".join(str(cell) or "-" for cell in row) + " |" for row in rows]


def cells_of(row: EngineRow) -> list[str]:
    """One line of the engines' table."""
    what = [f"{row.engine} {row.version}", row.torch, row.flashinfer, row.adapter]
    return [*what, row.contract, row.resolves, row.cpu_start, row.gpu_start, row.table_hits, row.cache_kinds]


def page(engines: list[EngineRow], libraries: list[FlashInferRow]) -> str:
    """The text of ENGINES.md."""
    lines = [
        "# Engines",
        "",
        "Written by `./scripts/engine_matrix` from recorded results; a test compares it with them.",
        "",
        "- Pins are from each release's own metadata.",
        "- *Contract*: all that is used of the release was found in its wheel.",
        "- *Resolves*: pip finds one set of versions for the engine and this project's wheel. `without` names a",
        "  requirement that the package index has as a source package only: the engine alone does not resolve either.",
        "- *Cache kinds* are those that the start on a processor recorded, or that starts on a GPU had placed.",
        "- What was not run says so.",
        "",
    ]
    names = [
        "engine",
        "torch",
        "FlashInfer",
        "adapter",
        "contract",
        "resolves",
        "CPU start",
        "GPU start",
        "table hits on a GPU",
        "cache kinds",
    ]
    lines += [*table(names, (cells_of(row) for row in engines)), "", "## FlashInfer", ""]
    lines += table(
        ["release", "columns of an entry", "rank in MoE keys", "compiled modules through", "tuned on a CPU"],
        (
            [
                row.version,
                str(row.entry_columns),
                "yes" if row.ranks_in_moe_keys else "no",
                row.modules,
                row.tuned_on_cpu,
            ]
            for row in libraries
        ),
    )
    return "\n".join(lines) + "\n"


def short(engines: list[EngineRow]) -> str:
    """The README's form: one line per engine."""
    lines = [BEGIN]
    for name in dict.fromkeys(row.engine for row in engines):
        rows = [row for row in engines if row.engine == name]
        passed = [row.version for row in rows if row.contract.startswith("passes")]
        lines.append(f"- {name} {passed[-1]} to {passed[0]} ({rows[0].adapter})")
    known = [version for family in FAMILIES for version in family.versions]
    lines.append(f"- FlashInfer {known[0]} to {known[-1]}")
    return "\n".join([*lines, "", "[ENGINES.md](ENGINES.md) has every release and what was run with it.", END])


def written() -> dict[Path, str]:
    """Every file and its text, as it should be."""
    engines, libraries = engine_rows(), flashinfer_rows()
    rows = {"engines": [asdict(row) for row in engines], "flashinfer": [asdict(row) for row in libraries]}
    before, _, rest = README.read_text().partition(BEGIN)
    readme = before + short(engines) + rest.partition(END)[2]
    return {JSON: json.dumps(rows, indent=1) + "\n", PAGE: page(engines, libraries), README: readme}


def stale() -> list[str]:
    """Names of the files that are not as they should be."""
    return [path.name for path, text in written().items() if not path.is_file() or path.read_text() != text]


def main() -> None:
    """Write the files, or only compare them."""
    if "--check" in sys.argv[1:]:
        sys.exit(f"run ./scripts/engine_matrix: {', '.join(stale())} would change" if stale() else 0)
    for path, text in written().items():
        path.write_text(text)
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
