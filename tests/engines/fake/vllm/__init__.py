"""A vLLM for tests: real processes and directories, the functions that the plugin wraps, no model and no torch.

Its real counterpart is started by `python -m tests.engines.vllm_cpu`. What it does is set by variables:
`fault` and `slow_s` are arguments, too: where it fails, and seconds before it inspects its model.
FAKE_VLLM_FAULT   init, hang, crash_warm, answer, one_rank, late_compile: where it fails, hangs or compiles late
FAKE_VLLM_VERSION what it calls itself
FAKE_VLLM_SLOW_S  seconds that each compilation takes
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import time
from types import SimpleNamespace
from typing import Any

__version__ = os.environ.get("FAKE_VLLM_VERSION", "0.33.0")


class SamplingParams:
    """Keeps what it is given."""

    def __init__(self, **named: Any) -> None:
        self.named = named


class Section:
    """A section of the configuration: fields and a hash over them."""

    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)

    def compute_hash(self) -> str:
        """Every field counts."""
        return str(sorted((name, str(value)) for name, value in vars(self).items()))


class Config(Section):
    """The whole configuration."""

    def compute_hash(self) -> str:
        """Every section counts."""
        sections = [vars(self)[name] for name in sorted(vars(self)) if name.endswith("_config")]
        return str([section.compute_hash() for section in sections if section is not None])


class LLM:
    """One engine: front end here, workers in processes of their own where there is more than one."""

    @classmethod
    def from_engine_args(cls, engine_args: Any) -> LLM:
        """An engine with arguments that were read from a command line."""
        return cls(**{name: value for name, value in vars(engine_args).items() if value is not None})

    def __init__(self, load_format: str, skip_tokenizer_init: bool, **arguments: Any) -> None:
        load_general_plugins()
        from vllm.model_executor.models.registry import _LazyRegisteredModel

        if arguments.get("fault"):
            os.environ["FAKE_VLLM_FAULT"] = arguments["fault"]
        if os.environ.get("FAKE_VLLM_FAULT") == "init":
            raise RuntimeError("the fake engine cannot start")
        if os.environ.get("FAKE_VLLM_FAULT") == "hang":
            time.sleep(600)
        time.sleep(arguments.get("slow_s") or 0)
        _LazyRegisteredModel("fake_model", "FakeForCausalLM").inspect_model_cls()
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.core import plan_kv_cache

        config = EngineArgs(load_format=load_format, **arguments).create_engine_config("LLM_CLASS")
        plan_kv_cache(config)
        ranks = config.parallel_config.tensor_parallel_size
        if ranks == 1:
            run_worker(config, 0)
        else:
            context = multiprocessing.get_context("spawn")
            workers = [context.Process(target=run_worker, args=(config, rank)) for rank in range(ranks)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            if any(worker.exitcode for worker in workers):
                raise RuntimeError("a worker of the fake engine failed")
        self.llm_engine = SimpleNamespace(vllm_config=config, engine_core=SimpleNamespace())

    def generate(self, prompts: list[Any], params: list[Any], use_tqdm: bool) -> list[Any]:
        """Answer each prompt with one token."""
        if os.environ.get("FAKE_VLLM_FAULT") == "late_compile":
            from vllm.v1.worker.worker_base import compile_deep_gemm

            compile_deep_gemm("late")
        tokens = [] if os.environ.get("FAKE_VLLM_FAULT") == "answer" else [1]
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=tokens)]) for _ in prompts]


def make_config(**arguments: Any) -> Config:
    """The configuration that a start resolves to."""
    from vllm.config.model import model_config

    return Config(
        instance_id=secrets.token_hex(3)[:5],
        model_config=model_config(**arguments),
        scheduler_config=Section(
            max_num_batched_tokens=arguments.get("max_num_batched_tokens", 128),
            max_num_seqs=arguments.get("max_num_seqs", 4),
        ),
        compilation_config=Section(**arguments.get("compilation_config", {})),
        parallel_config=Section(
            tensor_parallel_size=arguments.get("tensor_parallel_size", 1),
            pipeline_parallel_size=1,
            data_parallel_size=1,
            enable_expert_parallel=False,
        ),
        cache_config=Section(cache_dtype="auto", block_size=16, num_gpu_blocks_override=None),
        kernel_config=Section(enable_flashinfer_autotune=True),
        attention_config=Section(),
        speculative_config=None,
    )


_plugins_loaded = False


def load_general_plugins() -> None:
    """Call every entry point of `vllm.general_plugins`, once a process."""
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True
    from importlib.metadata import entry_points

    for entry in entry_points(group="vllm.general_plugins"):
        entry.load()()


def run_worker(config: Config, rank: int) -> None:
    """One worker from its beginning to the end of its warmup."""
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    wrapper = WorkerWrapperBase(config, rank)
    wrapper.init_worker()
    wrapper.init_device()
    if os.environ.get("FAKE_VLLM_FAULT") == "one_rank" and rank == 1:
        raise RuntimeError("rank 1 of the fake engine cannot compile")
    wrapper.worker.compile_or_warm_up_model()
