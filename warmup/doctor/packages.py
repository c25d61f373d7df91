"""Checks of the installed packages: this project's own copy, its libraries, and the engines beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from ray_warmup.configs import VERSION, env
from ray_warmup.warmup.device.host_facts import UNKNOWN, version_of
from ray_warmup.warmup.doctor.finding import Finding, error, ok, warning
from ray_warmup.warmup.engines.adapter.adapter import PLUGIN, EngineAdapter
from ray_warmup.warmup.engines.adapter.contract import EngineContract
from ray_warmup.warmup.engines.known_engines import ADAPTERS
from ray_warmup.warmup.engines.node import installed
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.families import known

DISTRIBUTION = "ray-warmup"
TUNING_LIBRARIES = ("torch", "flashinfer-python", "triton")


def own_copy() -> Iterator[Finding]:
    """Check that the code that runs is the wheel that is installed, and the first of its name on the path."""
    try:
        version = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        yield error(
            "packages",
            "ray-warmup runs from a directory and is not installed, so no engine finds its plugin",
            f"pip install {DISTRIBUTION}=={VERSION} into the engine's environment",
        )
        return
    if version != VERSION:
        yield error(
            "packages",
            f"the wheel is version {version}, the code that runs is {VERSION}",
            f"pip install {DISTRIBUTION}=={VERSION}, or run the installed version",
        )
    else:
        yield ok("packages", f"ray-warmup {VERSION}")
    yield from _other_copies()


def _other_copies() -> Iterator[Finding]:
    here = Path(__file__).resolve().parents[2]
    for entry in sys.path:
        found = Path(entry or ".", "ray_warmup")
        if not (found / "__init__.py").is_file():
            continue
        if (found / "warmup").resolve() != here / "warmup":
            yield warning(
                "packages",
                f"{found} is another ray_warmup on the path of this interpreter",
                "take its directory out of PYTHONPATH: an engine started there imports that one",
            )
        return


def requirements() -> Iterator[Finding]:
    """Compare the packages that this project asks for with those that are installed, Ray among them."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        yield ok("packages", "versions are not compared: `packaging` is not installed here")
        return
    try:
        asked = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return  # told already
    wrong = []
    for line in asked:
        requirement = Requirement(line)
        if requirement.marker is not None:  # of an extra
            continue
        version = version_of(requirement.name)
        # An engine's own environment has the core only.
        if version != UNKNOWN and not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} (wanted {requirement.specifier})")
    if wrong:
        text = f"outside the range that was tried: {', '.join(wrong)}"
        yield error("packages", text, f"pip install '{DISTRIBUTION}=={VERSION}' puts the wanted versions in place")
    else:
        yield ok("packages", f"Ray {version_of('ray')} and what else is asked for are in range")


def libraries() -> Iterator[Finding]:
    """Check torch, FlashInfer and Triton, and that FlashInfer's release is one that is known."""
    found = {name: version_of(name) for name in TUNING_LIBRARIES}
    lacking = [name for name, version in found.items() if version == UNKNOWN]
    if lacking:
        yield warning(
            "packages",
            f"not installed here: {', '.join(lacking)}; this node can show and move artifacts, and not tune",
            "install ray-warmup into the engine's environment, or pip install 'ray-warmup[cpu]'",
        )
    else:
        yield ok("packages", ", ".join(f"{name} {version}" for name, version in found.items()))
    flashinfer = found["flashinfer-python"]
    if flashinfer == UNKNOWN:
        return
    try:
        known.families_of(flashinfer)
    except WarmupError as refused:
        yield error("packages", str(refused), "use a FlashInfer release of ENGINES.md")
    else:
        yield ok("packages", f"FlashInfer {flashinfer} is a release that is served")


def engines() -> Iterator[Finding]:
    """Check the engines of this environment against the releases that are served, and that they find the plugin."""
    found = [adapter for adapter in ADAPTERS.values() if installed.installed_version(adapter)]
    if not found:
        names = " nor ".join(adapter.title for adapter in ADAPTERS.values())
        yield ok("engine", f"neither {names} is installed in this environment")
    for adapter in found:
        yield from _release(adapter.contract, installed.installed_version(adapter))
        yield from _plugin(adapter)
        bytecode = installed.missing_bytecode(adapter)
        if bytecode is not None:
            yield warning("engine", bytecode, "compile it once, in the image")


def _release(contract: EngineContract, version: str) -> Iterator[Finding]:
    why = contract.refusal(version)
    if why:
        yield error("engine", why, "use a release of ENGINES.md, or set RAY_WARMUP=off to start without this project")
    else:
        yield ok("engine", f"{contract.name} {version}")


def _plugin(adapter: EngineAdapter) -> Iterator[Finding]:
    group, title = adapter.plugin_group, adapter.title
    if not installed.is_plugin_registered(adapter):
        yield error(
            "engine",
            f"no entry point {PLUGIN} in {group}: {title} does not load the plugin",
            f"pip install {DISTRIBUTION}",
        )
        return
    hidden = installed.hidden_plugin(adapter, env.snapshot())
    if hidden:
        yield warning("engine", hidden, f"unset {adapter.plugins_variable}, or add {PLUGIN} to it")
    elif env.read("RAY_WARMUP") == "off":
        yield warning("engine", "RAY_WARMUP=off switches the plugin off", "unset RAY_WARMUP")
    else:
        yield ok("engine", f"{title} loads the plugin")
