"""Ray's private parts are used in one place and are as they were pinned, for every Ray that may be installed."""

from __future__ import annotations

import ast
import inspect
import signal
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.actors.cluster.ray_internals import broken_pipes_ignored
from tests.raylets import is_ignored

ROOT = Path(__file__).resolve().parents[4]
THE_PLACE = "actors/cluster/ray_internals.py"
PRIVATE = ("ray._", "ray.core", "ray.dashboard")


def private_imports(source: str) -> list[str]:
    """Modules of Ray's private parts that a file imports, lazily or not, or reaches through `ray` itself."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ray":
            found.append(f"ray.{node.attr}")
    return [name for name in found if name.startswith(PRIVATE) and not name.startswith("ray.__")]


def test_private_parts_of_ray_are_used_in_one_place() -> None:
    """No other product file imports them."""
    files = [path for folder in ("actors", "scripts", "warmup", "configs") for path in (ROOT / folder).rglob("*.py")]
    users = {str(path.relative_to(ROOT)) for path in files if private_imports(path.read_text())}
    assert users == {THE_PLACE}


@pytest.mark.parametrize(
    "planted",
    [
        "from ray._private.state import actors",
        "def f():\n    import ray._private.services",
        "import ray\nray._private.state.state",
        "from ray import _private",
        "from ray.core.generated import gcs_pb2",
    ],
)
def test_a_planted_use_is_found(planted: str) -> None:
    """The search above sees lazy imports and attributes."""
    assert private_imports(planted)


def parameters(function: Callable[..., Any]) -> list[str]:
    """Names of the parameters that a call of ours gives, in order."""
    return list(inspect.signature(function).parameters)


def test_functions_take_what_they_are_given() -> None:
    """Each is called by position with these parameters."""
    from ray._private.services import canonicalize_bootstrap_address
    from ray._private.state import actors, available_resources_per_node

    assert parameters(available_resources_per_node) == []
    assert parameters(actors)[:1] == ["actor_id"]
    assert parameters(canonicalize_bootstrap_address)[:1] == ["addr"]
    assert all(p.default is not p.empty for p in list(inspect.signature(actors).parameters.values())[1:])
    others = list(inspect.signature(canonicalize_bootstrap_address).parameters.values())[1:]
    assert all(p.default is not p.empty for p in others)


def test_the_table_of_actors_can_be_asked_for_live_ones() -> None:
    """The accessor takes a job and a state, and is reached without a driver's own connection being made anew."""
    from ray._private.state import GlobalState, state
    from ray._raylet import GlobalStateAccessor

    assert isinstance(state, GlobalState)
    assert parameters(state._connect_and_get_accessor) == []
    assert callable(GlobalStateAccessor.get_actor_table)
    assert "get_actor_table(job_id" in inspect.getsource(GlobalState.actor_table).replace("\n", "").replace(" ", "")


def test_a_row_has_what_is_read_of_it() -> None:
    """Node, name, class, job, process and resources of an actor."""
    from ray.core.generated import gcs_pb2

    row = gcs_pb2.ActorTableData()
    fields = {field.name for field in row.DESCRIPTOR.fields}
    assert {"address", "name", "class_name", "job_id", "pid", "required_resources"} <= fields
    assert isinstance(row.address.node_id, bytes)
    assert dict(row.required_resources) == {}


def test_an_actor_handle_has_its_id() -> None:
    """Its record is found by it."""
    from ray.actor import ActorHandle

    assert "_actor_id" in inspect.getsource(ActorHandle)


def test_a_row_of_the_public_table_has_what_is_read_of_it() -> None:
    """State, process and node of an actor, by the names that the cluster's record gives them."""
    from ray._private.state import GlobalState

    source = inspect.getsource(GlobalState._gen_actor_info)
    assert [name for name in ("State", "Pid", "Address", "NodeID") if f'"{name}"' not in source] == []


def test_the_range_of_ray_is_the_one_that_was_looked_at() -> None:
    """Wheels of 2.58.0 and 2.60.0 were read; whoever widens the range reads the new one's."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert [line for line in wanted if line.startswith("ray[")] == ["ray[default]>=2.58,<2.61"]


def test_a_worker_knows_where_its_session_logs() -> None:
    """The node of a process that Ray started has the directory."""
    from ray._private import worker
    from ray._private.node import Node

    assert hasattr(worker, "_global_node")
    assert parameters(Node.get_logs_dir_path) == ["self"]


def test_processes_of_ray_ignore_broken_pipes() -> None:
    """Those that it starts meanwhile, by the class that is replaced; before and after they do not."""
    from ray._private import services

    def starts_ignorant() -> bool:
        with services.ConsolePopen(["sleep", "60"], stdout=subprocess.DEVNULL) as process:
            found = is_ignored(process.pid, signal.SIGPIPE)
            process.kill()
        return found

    assert "ConsolePopen(" in inspect.getsource(services.start_ray_process)
    assert "start_ray_process(" in inspect.getsource(services.start_raylet)
    with broken_pipes_ignored():
        meanwhile = starts_ignorant()
    assert (meanwhile, starts_ignorant()) == (True, False)
