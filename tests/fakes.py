"""Stand-ins for tests. Each has a real counterpart that is tested elsewhere.

ScriptedTuner   for `device.flashinfer_tuner.FlashInferTuner` (tests/unit/warmup/device/test_cpu_tuner.py, tests/gpu/):
                fast and without torch; writes tables of FlashInfer's layout and follows a script of faults.
ForeignRunner   for `engines.builtin.runner.builtin.BuiltinRunner`: a runner with nothing optional.
NamedBackend    for an attention backend: a name, or NotImplementedError.
StubTritonDriver  for Triton's CUDA driver, so that kernels compile for a GPU that is not there (tests/gpu/ has one).
DecodeEntryPoint  for FlashInfer's sparse-MLA decode autotune, which needs an SM120 GPU.
CompilingReplay  for `rank.fresh_replay.FreshProcess`, whose child compiles on a GPU (tests/gpu/two_nodes.py has one).
What stands in for a GPU's laps is in `scripted_contest.py`.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray_warmup.configs.loader import config_of_text
from ray_warmup.warmup.artifact.quarantine import named_by
from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.caches.provider import MODULES, PACKAGE
from ray_warmup.warmup.device.tuner import Memory, TunerOptions, Watch
from ray_warmup.warmup.errors import LoadError
from ray_warmup.warmup.messages.answers import Guarded, Loaded, Replayed
from ray_warmup.warmup.messages.replays import FreshlyReplayed, FreshReplay
from ray_warmup.warmup.tasks import (
    DEFAULT_TACTIC,
    Choice,
    Contender,
    GuardVerdict,
    Measurement,
    Skip,
    TacticId,
    Task,
    TaskResult,
    Workload,
)
from tests.libraries import build_library
from tests.script import Moments, read_script

METADATA = {
    "flashinfer_version": "0.7.2.post1",
    "cuda_version": "13.0",
    "cublas_version": "13.1.0",
    "cudnn_version": "91900",
    "cudnn_frontend_version": "1.32.0",
    "cutlass_dsl_version": "unknown-free",
    "gpu": "Scripted Device",
}


def make_scripted_tuner(backend: str, options: TunerOptions) -> ScriptedTuner:
    """Factory for `run_warmup(tuner="tests.fakes:make_scripted_tuner")`."""
    script = read_script()
    if "decode_table" in script:
        import flashinfer

        entry = DecodeEntryPoint(script["decode_table"].encode())
        vars(flashinfer)["sparse_mla_sm120_decode_dsv4_autotune"] = entry
    return ScriptedTuner(script)


class ScriptedTuner:
    """A tuner whose measurements are a function of the task's name, with faults where the script says."""

    def __init__(self, script: dict[str, Any]) -> None:
        self._script = script
        self._fault = Moments(script).reach
        self._watch = Watch()
        self._listener: Callable[[Watch], None] = lambda watch: None
        self._quarantine: set[TacticId] = set()
        self._table: bytes | None = None
        self._provider: Path | None = None
        self._buildable: tuple[str, ...] = tuple(script.get("libraries", ()))

    def describe(self) -> dict[str, str]:
        return {**METADATA, "arch": "scripted", "torch": "none", "triton": "none", **self._script.get("parts", {})}

    def device(self) -> str:
        return self.describe()["gpu"]

    def reference_seconds(self) -> float | None:
        return self._script.get("reference_s")

    def watch(self) -> Watch:
        return self._watch

    def listen(self, listener: Callable[[Watch], None]) -> None:
        self._listener = listener

    def set_quarantine(self, quarantine: Sequence[TacticId]) -> None:
        self._quarantine = set(quarantine)

    def prepare(self, workloads: Sequence[Workload], others: Sequence[Workload] = ()) -> tuple[Skip, ...]:
        self._fault("prepare")
        of_others = [name for other in others for name in other.modules]
        self._buildable = tuple(dict.fromkeys((*self._script.get("libraries", ()), *of_others)))
        refused = self._script.get("refuse", [])
        return tuple(Skip(w.name, w.op, "the script refuses it") for w in workloads if w.name in refused)

    def missing_modules(self) -> tuple[str, ...]:
        return (*self._script.get("modules", ()), *(n for n in self._buildable if not self._library(n).exists()))

    def compile(self, modules: Sequence[str], max_jobs: int) -> Iterator[tuple[str, ...]]:
        for module in modules:
            self._fault("compile")
            if module in self._buildable:
                build_library(module, self._workspace() / f"{module}.so", self._script.get("library_bytes", 0))
            yield (module,)

    def libraries(self, also: Sequence[str] = ()) -> Mapping[str, Path]:
        paths = {name: self._library(name) for name in (*self._buildable, *also)}
        return {name: path for name, path in paths.items() if path.exists()}

    def activate(self, provider: Path) -> bool:
        if (provider / PACKAGE / MODULES).is_dir():
            self._provider = provider
        return self._provider == provider

    def tune(self, task: Task) -> TaskResult:
        self._watch = Watch(task.workload.op, task.task_id, "FastRunner", "3")
        self._listener(self._watch)
        if TacticId(task.workload.op, "FastRunner", "3") not in self._quarantine:
            self._fault("tune", task.task_id)
        time.sleep(self._script.get("task_s", 0.0))
        keys = {name: self._key(task, name) for name in ("FirstRunner", "FastRunner")}
        salted = task.task_id + self._script.get("salt", "")
        number = int(hashlib.sha256(salted.encode()).hexdigest(), 16)
        able = (
            Measurement("FastRunner", number % 7, 1e-4, 1e-6, 5),
            Measurement("FirstRunner", number % 5, 2e-4, 1e-6, 5),
        )
        rows = tuple(m for m in able if TacticId(task.workload.op, m.runner, str(m.tactic)) not in self._quarantine)
        return TaskResult(
            task_id=task.task_id,
            op=task.workload.op,
            bucket=task.bucket,
            outcome="tuned",
            choice=Choice(rows[0].runner, rows[0].tactic),
            default_runner="FirstRunner",
            keys=keys,
            policy=("l2_cache_policy", "hot"),
            measurements=rows,
            elapsed_s=self._script.get("task_s", 0.0),
        )

    def measure(self, task: Task, shortlist: Sequence[Choice]) -> TaskResult:
        base = 1e-4 * self._script.get("slow_ratio", 1.0)
        slow = self._script.get("slow", {})
        rows = tuple(Measurement(c.runner, c.tactic, base * (1 + slow.get(c.runner, 0)), 1e-6, 5) for c in shortlist)
        return replace(self.tune(task), measurements=rows)

    def guard(self, task: Task, result: TaskResult, contenders: Sequence[Contender] = ()) -> Guarded:
        self._fault("guard", task.task_id)
        assert result.choice is not None
        ratio = self._script.get("guard_ratio", 2.0)
        if ratio > 1.0:
            return Guarded(GuardVerdict(task.task_id, "kept", result.choice, ratio, ratio, 2e-4, 5))
        default = Choice(result.default_runner, DEFAULT_TACTIC)
        return Guarded(
            GuardVerdict(task.task_id, "slower", default, 1.0, ratio, 2e-4, 5, "not faster than the default")
        )

    def table(
        self, results: Sequence[TaskResult], verdicts: Sequence[GuardVerdict], left_out: Sequence[Task] = ()
    ) -> bytes | None:
        self._fault("table")
        if not (tuned := [result for result in results if result.choice is not None]):
            return None
        entries: dict[str, Any] = {"_metadata": {**self._metadata(), "gpu": self.device()}}
        chosen = {verdict.task_id: verdict.choice for verdict in verdicts}
        for result in sorted(tuned, key=lambda r: r.task_id):
            choice = chosen.get(result.task_id, result.choice)
            assert choice is not None
            entries[result.keys[choice.runner]] = [choice.runner, choice.tactic, list(result.policy or ())]
        return json.dumps(entries, indent=2).encode()

    def check(self, table: bytes) -> str | None:
        self._fault("check")
        found = parse_table(table).metadata
        if wrong := {name for name, value in self._metadata().items() if name != "gpu" and found.get(name) != value}:
            return f"metadata differs in {', '.join(sorted(wrong))}"
        return named_by(parse_table(table), self._quarantine)

    def load(self, path: Path, expected: Sequence[Task]) -> Loaded:
        self._fault("load")
        self._table = Path(path).read_bytes()
        table = parse_table(self._table)
        misses = tuple(
            task.task_id
            for task in expected
            if not any(self._key(task, name) in table.entries for name in ("FirstRunner", "FastRunner"))
        )
        if len(table.entries) < len(expected):
            raise LoadError(f"{len(table.entries)} entries were loaded, {len(expected)} expected")
        misses += tuple(task.task_id for task in expected[: self._script.get("misses", 0)])
        digest = self._script.get("digest", table.digest)
        return Loaded(digest, len(table.entries), len(expected) - len(misses), misses)

    def held_digest(self) -> str | None:
        return None if self._table is None else self._script.get("digest", parse_table(self._table).digest)

    def replay(self, tasks: Sequence[Task]) -> Replayed:
        self._fault("replay")
        for name, path in self.libraries().items():
            assert ctypes.CDLL(str(path)).answer() == len(name), f"{path} is not the library of {name}"
        return Replayed(calls=len(tasks), built_modules=self.missing_modules())

    def memory(self) -> Memory:
        return Memory(free=1 << 30, total=1 << 31, peak=1 << 20)

    def reset(self) -> None:
        self._table = None

    def _workspace(self) -> Path:
        return Path(os.environ["FLASHINFER_WORKSPACE_BASE"], "scripted")

    def _library(self, name: str) -> Path:
        """Installed for this process, else built on this node, else not there."""
        installed = None if self._provider is None else self._provider / PACKAGE / MODULES / name / f"{name}.so"
        return installed if installed is not None and installed.exists() else self._workspace() / f"{name}.so"

    def _metadata(self) -> dict[str, str]:
        return METADATA | dict[str, str](self._script.get("metadata", {}))

    def _key(self, task: Task, runner: str) -> str:
        return str(
            (task.workload.op, runner, ((task.bucket, int(task.workload.param("k"))),), (task.workload.param("n"),))
        )


class NamedBackend:
    """An attention backend; without a name it is abstract."""

    def __init__(self, name: str | None) -> None:
        self._name = name

    def get_name(self) -> str:
        if self._name is None:
            raise NotImplementedError
        return self._name


class ForeignRunner:
    """An engine's runner with none of the optional attributes."""

    def __init__(self, limits: Any, kv_cache_config: Any, capabilities: frozenset[Any], backend: str | None) -> None:
        self.limits, self.kv_cache_config, self.capabilities = limits, kv_cache_config, capabilities
        self.vocab_size, self.device, self.decode_query_len = 100, "cpu", 1
        self.is_pooling_model, self.is_last_pp_rank = False, True
        self.attention_backends = (NamedBackend(None), NamedBackend(backend))
        self.calls: list[tuple[str, Any]] = []

    def dummy_run(
        self,
        num_tokens: int,
        *,
        skip_eplb: bool = False,
        is_profile: bool = False,
        force_attention: bool = False,
        create_mixed_batch: bool = False,
        create_single_prefill: bool = False,
        profile_seq_lens: int | None = None,
    ) -> None:
        kind = "mixed" if create_mixed_batch else "prefill" if create_single_prefill else "spread"
        self.calls.append((kind, (num_tokens, profile_seq_lens)))

    def execute_model(self, scheduler_output: Any) -> None:
        self.calls.append(("execute", scheduler_output))

    def sample_tokens(self, grammar_output: Any) -> None:
        self.calls.append(("sample", grammar_output))


class StubTritonDriver:
    """Answers what Triton asks before it compiles; nothing can be launched."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class DecodeEntryPoint:
    """A context manager factory: whatever runs inside is "tuned" into the file; `content` None tunes nothing."""

    def __init__(self, content: bytes | None) -> None:
        self._content = content
        self.entered = 0

    @contextmanager
    def __call__(self, cache_path: str) -> Iterator[None]:
        self.entered += 1
        yield
        if self._content is not None:
            Path(cache_path).write_bytes(self._content)


class CompilingReplay:
    """A fresh process that replays nothing and writes what a replay on a GPU compiles."""

    is_alive = True
    replays = 0

    def __init__(self, factory: str, environ: Mapping[str, str]) -> None:
        self.compute_cache = Path(environ["CUDA_CACHE_PATH"]).with_name("of-the-replay")

    def replay(self, request: FreshReplay, table: bytes, timeout_s: float) -> FreshlyReplayed:
        """One kernel of Triton's, one of the driver's, for the widths that the configuration asks for."""
        CompilingReplay.replays += 1
        width = config_of_text(request.config).engine.top_k_widths[0]
        entry = Path(str(request.triton_cache), f"ENTRY{width}")
        entry.mkdir(parents=True, exist_ok=True)
        (entry / "k.cubin").write_bytes(b"cubin %d" % width)
        (entry / "__grp__k.json").write_text(json.dumps({"child_paths": {"k.cubin": str(entry / "k.cubin")}}))
        (self.compute_cache / "0").mkdir(parents=True, exist_ok=True)
        (self.compute_cache / "0" / f"kernel{width}").write_bytes(b"kernel")
        return FreshlyReplayed(Replayed(0), 0, 0.0, (entry.name,))

    def __enter__(self) -> CompilingReplay:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.compute_cache)
