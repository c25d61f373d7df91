"""The environment in which a child process finds a fake engine and this project's plugin as installed packages."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from ray_warmup.configs import VERSION
from tests.artifacts import ROOT

FAKE = ROOT / "tests" / "engines" / "fake"
GROUPS = {"vllm": "vllm.general_plugins", "sglang": "sglang.srt.plugins"}
VERSIONS = {"vllm": "0.33.0", "sglang": "0.5.23"}


def environment(tmp_path: Path, kind: str = "vllm", **variables: str) -> dict[str, str]:
    """A child's environment: a home and a cache root of its own, the fake engine, the plugin's real entry point."""
    site = tmp_path / "site"
    dist_info = site / f"ray_warmup-{VERSION}.dist-info"
    dist_info.mkdir(parents=True, exist_ok=True)
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUPS[kind]]
    (dist_info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ray-warmup\nVersion: {VERSION}\n")
    lines = [f"[{GROUPS[kind]}]", *(f"{name} = {value}" for name, value in entries.items())]
    (dist_info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    version = VERSIONS[kind]
    engine = site / f"{kind}-{version}.dist-info"
    engine.mkdir(exist_ok=True)
    (engine / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {kind}\nVersion: {version}\n")
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path),
        "RAY_WARMUP_CACHE_ROOT": str(tmp_path / "root"),
        "PYTHONPATH": ":".join(map(str, (site, FAKE, ROOT))),
        **variables,
    }
