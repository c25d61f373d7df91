"""Real Ray Serve on loopback: replicas that are added take what the first one measured, and answer only when warm.

python -m pytest -m long tests/engines/test_serve.py       (results/serve.json has what it last printed)
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # Serve's own imports warn
]
RESULT = Path(__file__).parent / "results" / "serve.json"
READY_S = 240.0


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A local cluster with Serve's proxy on a free port."""
    base = tempfile.mkdtemp(prefix="rws")
    os.environ |= {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": base,
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent.parent),
        "RAY_WARMUP_CACHE_ROOT": f"{base}/cache",
        "XDG_STATE_HOME": f"{base}/state",
    }
    import ray
    from ray import serve

    with socket.create_server(("127.0.0.1", 0)) as probe:
        number = int(probe.getsockname()[1])
    ray.init(num_cpus=6, num_gpus=0, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": number})
        yield number
    finally:
        from ray_warmup.actors.registry.client import stop_registry

        serve.shutdown()
        stop_registry()
        ray.shutdown()
        shutil.rmtree(base, ignore_errors=True)


def post(port: int, tokens: list[int], path: str = "/generate") -> dict[str, Any]:
    """One request: the answer, and its seconds."""
    began = time.monotonic()
    body = json.dumps({"tokens": tokens, "max_tokens": 8}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        found: dict[str, Any] = json.load(answer)
        return found | {"seconds": time.monotonic() - began}


def deploy(**options: Any) -> float:
    """Deploy and wait until Serve calls it running. The seconds that it took."""
    from ray import serve

    from tests.engines.serve_app import Generate
    from tests.engines.tiny_engine import tiny_config

    began = time.monotonic()
    serve.run(Generate.options(**options).bind(tiny_config()), name="app", route_prefix="/")
    return time.monotonic() - began


def running_replicas() -> int:
    """Replicas that Serve sends requests to."""
    from ray import serve

    deployment = serve.status().applications["app"].deployments["Generate"]
    return int(deployment.replica_states.get("RUNNING", 0))


def load_until_there_are(replicas: int, port: int) -> tuple[list[dict[str, Any]], float]:
    """Eight clients ask all the time until so many replicas run, and 3 s more: the answers, and the seconds it took."""
    stop = threading.Event()
    answers: list[dict[str, Any]] = []

    def load() -> None:
        while not stop.is_set():
            answers.append(post(port, [1, 2, 3]))

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(load) for _ in range(8)]
        while running_replicas() < replicas and time.monotonic() - began < READY_S:
            time.sleep(0.5)
        scaled_s = time.monotonic() - began
        time.sleep(3)
        stop.set()
        for client in clients:
            client.result()
    return answers, scaled_s


def first_request_alone(port: int, tokens: list[int]) -> float:
    """Seconds of the first request to a replica without a warmup, which answers the same."""
    from ray import serve

    from tests.engines.serve_app import Alone
    from tests.engines.tiny_engine import tiny_config

    serve.run(Alone.bind(tiny_config(persistent=False)), name="alone", route_prefix="/alone")
    found = post(port, [1, 2, 3], "/alone/generate")
    serve.delete("alone")
    assert found["tokens"] == tokens
    return float(found["seconds"])


def test_from_one_replica_to_four(port: int) -> None:
    """Load makes Serve add replicas: one measured, each answer is from a warm one, a redeploy measures nothing.

    The slowest first request of a replica is faster than that of the same engine that tunes in it.
    """
    scaling = {
        "min_replicas": 1,
        "max_replicas": 4,
        "target_ongoing_requests": 0.5,
        "upscale_delay_s": 0.5,
        "downscale_delay_s": 600,
    }
    first_s = deploy(autoscaling_config=scaling)
    alone = post(port, [1, 2, 3])
    assert alone["measured"] > 0
    answers, scaled_s = load_until_there_are(4, port)
    measured = {answer["pid"]: answer["measured"] for answer in answers}
    assert running_replicas() == 4
    assert len(measured) == 4
    assert sorted(count > 0 for count in measured.values()) == [False, False, False, True]
    assert all(answer["ready"] for answer in answers)
    assert {tuple(answer["tokens"]) for answer in answers} == {tuple(alone["tokens"])}
    again_s = deploy(num_replicas=1, autoscaling_config=None)
    assert post(port, [1, 2, 3])["measured"] == 0
    assert again_s < first_s
    firsts = {answer["pid"]: answer["seconds"] for answer in reversed([alone, *answers])}
    slowest_s, alone_s = max(firsts.values()), first_request_alone(port, alone["tokens"])
    assert len(firsts) == 4
    assert slowest_s < alone_s
    import ray

    RESULT.write_text(
        json.dumps(
            {
                "date": time.strftime("%Y-%m-%d"),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
                "ray": ray.__version__,
                "first_replica_s": round(first_s, 1),
                "from_one_to_four_s": round(scaled_s, 1),
                "redeploy_s": round(again_s, 1),
                "answers": len(answers),
                "replicas_that_measured": 1,
                "slowest_first_request_s": round(slowest_s, 2),
                "slowest_first_request_without_warmup_s": round(alone_s, 2),
            },
            indent=1,
        )
        + "\n"
    )
