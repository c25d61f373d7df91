"""The front end: schedulers are processes of their own, as in the real engine."""

from __future__ import annotations

import multiprocessing
import os
import time
from types import SimpleNamespace
from typing import Any

from sglang.srt.configs.model_config import ModelConfig
from sglang.srt.plugins import load_plugins


class Engine:
    """One engine."""

    def __init__(self, server_args: Any) -> None:
        load_plugins()
        server_args.resolve_once()
        if server_args.fault:
            os.environ["FAKE_SGLANG_FAULT"] = server_args.fault
        fault = os.environ.get("FAKE_SGLANG_FAULT")
        if fault == "init":
            raise RuntimeError("the fake engine cannot start")
        if fault == "hang":
            time.sleep(600)
        time.sleep(server_args.slow_s)
        context = multiprocessing.get_context("spawn")
        self._schedulers = []
        self._scheduler_init_result = SimpleNamespace(scheduler_infos=[])
        for rank in range(server_args.tp_size):
            here, there = context.Pipe()
            scheduler = context.Process(target=run_scheduler_process, args=(server_args, rank, there), daemon=True)
            scheduler.start()
            there.close()
            self._schedulers.append((scheduler, here))
        for scheduler, pipe in self._schedulers:
            try:
                self._scheduler_init_result.scheduler_infos.append(pipe.recv())
            except EOFError:
                scheduler.join()
                raise RuntimeError(f"a scheduler of the fake engine ended with {scheduler.exitcode}") from None
        model = ModelConfig.from_server_args(server_args)
        self.tokenizer_manager = SimpleNamespace(model_config=model, context_len=model.context_len)

    def generate(self, input_ids: list[list[int]], sampling_params: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer each prompt with one token, by the first scheduler."""
        _, pipe = self._schedulers[0]
        pipe.send(len(input_ids))
        found: list[dict[str, Any]] = pipe.recv()
        return found

    def shutdown(self) -> None:
        """End the schedulers at once."""
        for scheduler, _ in self._schedulers:
            scheduler.kill()
            scheduler.join()


def run_scheduler_process(server_args: Any, tp_rank: int, pipe: Any) -> None:
    """One scheduler from its beginning to the end of the engine."""
    from sglang.srt.model_executor.model_runner import ModelRunner, compile_jit

    load_plugins()
    fault = os.environ.get("FAKE_SGLANG_FAULT")
    model = ModelConfig.from_server_args(server_args)
    runner = ModelRunner(server_args, model, tp_rank)
    if fault == "one_rank" and tp_rank == 1:
        raise RuntimeError("rank 1 of the fake engine cannot compile")
    runner.init_cuda_graphs()
    pipe.send({"status": "ready", "max_req_input_len": 60})
    while True:
        rows = pipe.recv()
        if fault == "late_compile":
            compile_jit("late")
        pipe.send([{"output_ids": [] if fault == "answer" else [1]} for _ in range(rows)])
