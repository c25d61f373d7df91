"""Options that every command on node caches takes, said once: whose caches are meant, and for whom the answer is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any

import typer

from ray_warmup.scripts.commands.cache_scope import Scope

TIMEOUT_S = 120.0

Config = Annotated[
    str | None, typer.Option("--config", "-c", help="YAML file or recipe whose `cache` section and cluster are meant.")
]
Given = Annotated[str, typer.Option("--config", "-c", help="YAML file, or the name of a recipe.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="section.field=value; may be repeated.")]
Root = Annotated[str | None, typer.Option("--root", help="Cache root, instead of the node's own.")]
Override = Annotated[str | None, typer.Option("--override-dir", help="Directory that holds the keys directly.")]
Cluster = Annotated[bool, typer.Option("--cluster", help="On every node, through one Ray task each.")]
Address = Annotated[str | None, typer.Option("--address", help="Of the cluster; default $RAY_ADDRESS or a local one.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds until a silent node is named instead.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]


def _shared_options(
    root: Root = None,
    override_dir: Override = None,
    config: Config = None,
    settings: Settings = None,
    cluster: Cluster = False,
    address: Address = None,
    timeout_s: Timeout = TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Hold the options' names, types and defaults for `scoped`."""


def scoped(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options, which it gets as its argument `scope`."""
    return _with_options(command, _parameters(_shared_options))


def scoped_by_config(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options as `scoped` does, and require the config."""
    shared = _parameters(_shared_options)
    config = shared.pop("config").replace(annotation=Given, default=inspect.Parameter.empty)
    return _with_options(command, {"config": config, **shared})


def _with_options(command: Callable[..., None], shared: dict[str, inspect.Parameter]) -> Callable[..., None]:
    names = {field.name for field in fields(Scope)}
    if names != set(shared):
        raise TypeError(f"Scope has the fields {sorted(names)}, the shared options are {sorted(shared)}")
    own = _parameters(command)
    own.pop("scope")

    def with_scope(**given: Any) -> None:
        scope = Scope(**{name: given.pop(name) for name in shared})
        command(scope=scope, **given)

    # Required ones first, as a signature wants them; the command line does not depend on the order.
    ordered = sorted((*own.values(), *shared.values()), key=lambda one: one.default is not one.empty)
    signature = inspect.Signature(ordered)
    with_scope.__signature__ = signature  # type: ignore[attr-defined]
    with_scope.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    with_scope.__name__, with_scope.__doc__ = command.__name__, command.__doc__
    return with_scope


def _parameters(function: Callable[..., None]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function, eval_str=True).parameters)
