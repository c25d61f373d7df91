"""Every recipe loads and fits the model that it names."""

from __future__ import annotations

import pytest

from ray_warmup.configs import load_config
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.configs.loader import RECIPES_DIR, load_request
from ray_warmup.configs.model import check_parallel, load_model, presets

ALL = sorted(path.stem for path in RECIPES_DIR.glob("*.yaml"))
ENGINES = [name for name in ALL if isinstance(load_request(name), EngineRunConfig)]
RECIPES = [name for name in ALL if name not in ENGINES]


def test_the_promised_recipes_exist() -> None:
    """The three recipes of the documentation are there."""
    assert {"cpu_two_nodes", "single_node_8gpu", "two_node_16gpu"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_fits_its_model(name: str) -> None:
    """It loads, begins with a comment, names a preset, and its parallel sizes split that model and fill its ranks."""
    config = load_config(name)
    model = config.model
    assert model.name in presets()
    check_parallel(
        load_model(model.name), model.tensor_parallel_size, model.pipeline_parallel_size, model.expert_parallel_size
    )
    assert config.cluster.num_ranks % (model.tensor_parallel_size * model.pipeline_parallel_size) == 0
    assert (RECIPES_DIR / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize(
    ("name", "ranks", "nodes"), [("cpu_two_nodes", 4, 2), ("single_node_8gpu", 8, None), ("two_node_16gpu", 16, 2)]
)
def test_a_recipe_is_as_large_as_its_name_says(name: str, ranks: int, nodes: int | None) -> None:
    """World size and nodes are those in the recipe's name."""
    cluster = load_config(name).cluster
    assert (cluster.num_ranks, cluster.num_nodes) == (ranks, nodes)


@pytest.mark.parametrize("name", ENGINES)
def test_a_recipe_of_a_real_engine_fills_its_ranks(name: str) -> None:
    """It loads, begins with a comment, and its replicas fill the nodes that its name says."""
    request = load_request(name)
    assert isinstance(request, EngineRunConfig)
    nodes = {"vllm_two_nodes": 2, "vllm_one_node_tp2": 1, "sglang_two_nodes": 2}[name]
    assert request.cluster.num_nodes == nodes
    assert request.cluster.num_ranks == nodes * request.engine.ranks_per_replica
    assert (RECIPES_DIR / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("name", presets())
def test_a_preset_loads(name: str) -> None:
    """Every model preset has consistent dimensions."""
    assert load_model(name).name == name
