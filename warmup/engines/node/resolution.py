"""Ask the engine of this node what a config resolves to: identity, digests of the model's files, what is not covered.

Nothing is started and nothing is written outside a temporary directory. The engine is imported in a child process,
which takes seconds; its configuration alone decides the answer.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from ray_warmup.configs.engine_arguments import hide
from ray_warmup.configs.engine_schema import RealEngineSection
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.codec import decode
from ray_warmup.warmup.engines.adapter.adapter import EngineAdapter
from ray_warmup.warmup.engines.artifacts import engine_store
from ray_warmup.warmup.engines.artifacts.engine_store import Found
from ray_warmup.warmup.engines.front_end.child_request import POLL_S, ChildRequest, write_request
from ray_warmup.warmup.engines.identity.resolved import Resolved
from ray_warmup.warmup.engines.known_engines import adapter_of
from ray_warmup.warmup.engines.node.installed import hidden_plugin
from ray_warmup.warmup.engines.start.child_process import ChildProcess
from ray_warmup.warmup.engines.start.engine_start import import_path
from ray_warmup.warmup.engines.start.exit_message import last_words, secrets_in
from ray_warmup.warmup.engines.start.model_places import model_places
from ray_warmup.warmup.errors import EngineError, EngineRequestError
from ray_warmup.warmup.store.node_paths import resolve_paths


def resolve_here(
    section: RealEngineSection,
    cache: CacheSection,
    environ: Mapping[str, str],
    *,
    deadline_s: float,
    explain: bool = False,
) -> Resolved:
    """Resolve a config on this node.

    Args:
        section: what is asked.
        cache: whose root may hold the facts of the model's class.
        environ: environment of the child.
        deadline_s: seconds for the import and the resolution.
        explain: also tell which arguments enter the class, which resolves once more for each of them.

    Raises:
        EngineRequestError: an argument that it refuses, a model that cannot be resolved, or what is not covered.
        EngineError: a plugin that is hidden or not installed, a version that was not read, a model that cannot be
            reached from this node, or a late answer.
    """
    adapter = adapter_of(section.kind)
    request = ChildRequest(dict(section.args), section.load_format, section.start_options, explain=explain)
    hidden = hidden_plugin(adapter, environ)
    if hidden is not None:
        raise EngineError(hidden)
    root = resolve_paths(cache).root
    with tempfile.TemporaryDirectory(prefix="ray-warmup-resolve-") as scratch:
        told = Path(scratch) / "told"
        told.mkdir()
        # A model class whose facts were recorded is not inspected by another import of vLLM.
        ours = {"RAY_WARMUP": "auto", "RAY_WARMUP_PROOF": str(told), "RAY_WARMUP_CACHE_ROOT": str(root)}
        moved = {**adapter.home(Path(scratch) / "home"), **model_places(environ)}
        variables = {**environ, **moved, **ours, **import_path(environ)}
        answer = _ask(adapter, request, Path(scratch), variables, section.secrets | secrets_in(environ), deadline_s)
    why = adapter.contract.refusal(answer.engine_version)
    if why:
        raise EngineError(why)
    if answer.not_covered:
        raise EngineRequestError(
            f"engine.args.{section.model_argument}: not covered yet: {'; '.join(answer.not_covered)}"
        )
    return answer


def find_here(resolved: Resolved, cache: CacheSection) -> Found:
    """Find this node's artifact for a resolved request, or the reason for the miss."""
    root = resolve_paths(cache).root
    parts = dict(resolved.identity)
    return engine_store.find(
        root,
        parts["engine"],
        parts["engine_version"],
        resolved.identity,
        resolved.key_sha256,
        resolved.settings,
        for_proof=True,
    )


def _ask(
    adapter: EngineAdapter,
    request: ChildRequest,
    scratch: Path,
    environ: Mapping[str, str],
    secrets: frozenset[str],
    deadline_s: float,
) -> Resolved:
    """Let a child answer. Raises EngineError."""
    asked, result, log = scratch / "request.json", scratch / "result.json", scratch / "engine.log"
    write_request(asked, request)
    child = ChildProcess([sys.executable, "-m", adapter.resolve_module, str(asked), str(result)], environ, log)
    deadline = time.monotonic() + deadline_s
    try:
        while (code := child.poll()) is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
    finally:
        child.kill()
    said = last_words(log.read_text(encoding="utf-8", errors="replace"), secrets)
    if code is None:
        raise EngineError(f"{adapter.title} did not resolve the request within {deadline_s:g} s{said}")
    if code != 0 or not result.is_file():
        raise EngineError(f"{adapter.title} ended with exit code {code} while it resolved the request{said}")
    document = json.loads(result.read_text(encoding="utf-8"))
    if "error" in document:
        kind = EngineRequestError if document["is_request"] else EngineError
        raise kind(hide(document["error"], secrets))
    return decode(Resolved, document["resolved"])
