"""`python -m tests.fuzz.run --cases 60000 --out FILE`: every reader, a table, exit code 1 for a finding.

Cases are shared out evenly; `--reader NAME --seed N --first M --cases 1` replays one.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import platform
import resource
import sys
import tempfile
from pathlib import Path

from ray_warmup.configs import VERSION
from tests.fuzz.campaign import Campaign, fuzz
from tests.fuzz.readers import READERS

ADDRESS_SPACE = 4 << 30
"""More than this is refused by the kernel, so that a bomb is a finding and not the end of the machine."""


def main() -> int:
    """Run, print, and say whether nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="inputs of all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--reader", choices=[reader.name for reader in READERS])
    parser.add_argument("--out", type=Path, help="write the table here, too")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    readers = [reader for reader in READERS if options.reader in (None, reader.name)]
    campaigns = []
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # each case writes files; a disk would be the brake
    with tempfile.TemporaryDirectory(prefix="fuzz", dir=memory) as scratch:
        for reader in readers:
            own = Path(scratch) / "own"
            campaigns.append(fuzz(reader, options.cases // len(readers), options.seed, own, first=options.first))
            print(_row(campaigns[-1]), flush=True)
    findings = [f"{c.reader}: {finding}" for c in campaigns for finding in c.findings]
    for finding in findings[:40]:
        print(finding)
    if options.out is not None:
        options.out.write_text(_document(campaigns, options.seed))
    return 1 if findings else 0


def _row(campaign: Campaign) -> str:
    taken = campaign.counts["taken"]
    refused = ", ".join(f"{name} {count}" for name, count in sorted(campaign.counts.items()) if name != "taken")
    return (
        f"| {campaign.reader} | {campaign.counts.total()} | {taken} | {refused} | {len(campaign.findings)} "
        f"| {campaign.seconds:.0f} | {campaign.slowest_s:.2f} | {campaign.growth_bytes >> 20} |"
    )


def _document(campaigns: list[Campaign], seed: int) -> str:
    names = ("pydantic", "pyyaml", "backports.zstd")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    total = sum(campaign.counts.total() for campaign in campaigns)
    seconds = sum(campaign.seconds for campaign in campaigns)
    rows = [
        "# Fuzzing: what was run",
        "",
        f"{datetime.datetime.now(datetime.UTC):%d %b %Y}, ray-warmup {VERSION}, Python {platform.python_version()}, "
        f"{versions}; seed {seed}, {total} inputs, {seconds:.0f} s of one process. Repeat: "
        f"`python -m tests.fuzz.run --seed {seed} --cases {total}`.",
        "",
        "| reader | inputs | taken whole | refused, by error | findings | s | slowest, CPU s | MiB more |",
        "|---|---|---|---|---|---|---|---|",
        *map(_row, campaigns),
        "",
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
