"""`ray-warmup env`: lines for a shell that lead to the modules installed for a config."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.configs import ConfigError, WarmupConfig, load_config
from ray_warmup.scripts.commands.env import environment_of, show_environment
from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.caches import flashinfer_modules
from ray_warmup.warmup.caches.artifact_install import provider_directory
from ray_warmup.warmup.caches.provider import refusal
from ray_warmup.warmup.caches.workspace import COPIES
from ray_warmup.warmup.rank.forecast import forecast_rank
from ray_warmup.warmup.store.node_store import NodeStore
from tests.artifacts import ROOT, make_artifact


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WarmupConfig:
    """A CPU config whose cache lies in `tmp_path`, in a bare environment."""
    for name in ("PYTHONPATH", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "FLASHINFER_WORKSPACE_BASE", "TRITON_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return load_config("cpu_two_nodes", [f"cache.root={tmp_path / 'root'}", "cluster.simulated_nodes=0"])


def test_without_modules_no_path_is_set(config: WarmupConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing is installed only the places of the caches are printed."""
    assert show_environment(config, 0, None, as_json=False) == 0
    names = [line.split("=")[0] for line in capsys.readouterr().out.splitlines()]

    assert names == [
        "export FLASHINFER_WORKSPACE_BASE",
        "export TRITON_CACHE_DIR",
        "export CUDA_CACHE_PATH",
    ]


def installed(config: WarmupConfig) -> Path:
    """A stored artifact with one module, installed; its provider."""
    forecast = forecast_rank(config, 0)
    store = NodeStore(forecast.table_path.parent)
    needs = {"flashinfer": "0.7.2", "architectures": "90a"}
    contents = [
        Content("flashinfer_module", "gemm/gemm.so", b"gemm"),
        Content("flashinfer_module", "requirements.json", json.dumps(needs).encode()),
    ]
    artifact = make_artifact(contents=contents, key=forecast.key.as_dict(), key_sha256=forecast.key.sha256)
    store.publish(artifact)
    provider = provider_directory(store.directory, artifact.manifest.module_set)
    flashinfer_modules.install(artifact.contents("flashinfer_module"), provider, needs)
    return provider


def shown(config: WarmupConfig, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What it says to machines."""
    show_environment(config, 0, None, as_json=True)
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_installed_modules_are_put_on_the_path(config: WarmupConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """The current artifact's provider is named, and JSON says why each variable is there."""
    provider = installed(config)
    answer = shown(config, capsys)
    assert (answer["schema_version"], answer["notes"]) == (1, [])
    assert answer["table"] == str(forecast_rank(config, 0).table_path)
    assert answer["settings"][-1]["name"] == "PYTHONPATH"
    assert answer["settings"][-1]["value"] == str(provider)
    assert all(setting["why"] for setting in answer["settings"])


@pytest.mark.parametrize("what", ["planted", "damaged", "writable", "foreign set"])
def test_modules_that_are_not_the_stores_stay_off_the_path(
    config: WarmupConfig, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    """Every Python process of the engine imports from that path, so it is looked at, and the reason is a comment."""
    provider = installed(config)
    package = provider / "flashinfer_jit_cache"
    if what == "planted":
        (provider / "sitecustomize.py").write_text("raise SystemExit(7)")
    elif what == "damaged":
        (package / "modules/gemm/gemm.so").write_bytes(b"other")
    elif what == "writable":
        package.chmod(0o777)
    else:
        needs = {"flashinfer": "0.7.2", "architectures": "90a"}
        data = json.dumps(needs).encode()
        shutil.rmtree(provider)
        contents = [
            Content("flashinfer_module", "x/x.so", b"x"),
            Content("flashinfer_module", "requirements.json", data),
        ]
        flashinfer_modules.install(contents, provider, needs)
    assert show_environment(config, 0, None, as_json=False) == 0
    out = capsys.readouterr().out
    assert "PYTHONPATH" not in out
    assert out.startswith("# compiled modules are not used: ")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another group")
def test_a_volume_of_a_group_is_used_once_the_group_is_named(
    config: WarmupConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As Kubernetes makes one with fsGroup: setgid and writable by the group, which is named in the comment."""
    root = tmp_path / "root"
    root.mkdir()
    os.chown(root, -1, 54322)
    root.chmod(0o2775)
    provider = installed(config)
    show_environment(config, 0, None, as_json=False)
    out = capsys.readouterr().out
    assert "PYTHONPATH" not in out
    assert f"# compiled modules are not used: {root} can be written by group 54322 (mode 2775)" in out
    assert "name 54322 in cache.trusted_gids" in out
    cache = config.cache.model_copy(update={"trusted_gids": (54322,)})
    answer = shown(config.model_copy(update={"cache": cache}), capsys)
    values = {setting["name"]: setting["value"] for setting in answer["settings"]}
    assert answer["notes"] == []
    assert values["PYTHONPATH"] == str(provider)
    assert values["FLASHINFER_WORKSPACE_BASE"] == str(root / "flashinfer")


def test_relative_places_are_made_absolute(
    config: WarmupConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An engine may be started in another directory than the one in which this was asked."""
    installed(config)
    monkeypatch.chdir(tmp_path)
    for name in ("TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "FLASHINFER_WORKSPACE_BASE", "PYTHONPATH"):
        monkeypatch.setenv(name, f"here/{name}")
    values = {setting["name"]: setting["value"] for setting in shown(config, capsys)["settings"]}
    assert values["TRITON_CACHE_DIR"] == str(tmp_path / "here/TRITON_CACHE_DIR")
    assert values["CUDA_CACHE_PATH"] == str(tmp_path / "here/CUDA_CACHE_PATH")
    assert values["FLASHINFER_WORKSPACE_BASE"] == str(tmp_path / "here/FLASHINFER_WORKSPACE_BASE")
    assert values["PYTHONPATH"].split(":")[1:] == [str(tmp_path / "here/PYTHONPATH")]


def test_an_engine_is_told_whom_the_config_believes(config: WarmupConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """It has no config of its own."""
    cache = config.cache.model_copy(update={"trusted_uids": (5001, 65534), "trusted_gids": (7,)})
    show_environment(config.model_copy(update={"cache": cache}), 0, None, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["export RAY_WARMUP_TRUSTED_UIDS=5001,65534", "export RAY_WARMUP_TRUSTED_GIDS=7"]


def test_a_simulated_node_has_caches_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For a config with simulated nodes one of them must be named, and the printed places are that node's."""
    monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = load_config("cpu_two_nodes")
    found = environment_of(config, 0, 1)
    home = tmp_path / "simulated/node-1"

    values = {setting.name: setting.value for setting in found.process.settings}
    assert (values["FLASHINFER_WORKSPACE_BASE"], values["TRITON_CACHE_DIR"]) == (
        str(home / "flashinfer"),
        str(home / "triton"),
    )
    assert found.table.is_relative_to(home)
    with pytest.raises(ConfigError, match="--node: the config simulates 2 nodes"):
        environment_of(config, 0)


def run_env(root: Path, home: Path, script: str, prefix: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    """A shell of an engine that evaluates the lines."""
    command = f"lines=$(ray-warmup env --config cpu_two_nodes --set cluster.simulated_nodes=0); code=$?\n{script}"
    named = {"RAY_WARMUP_CACHE_ROOT": str(root), "HOME": str(home), **environ}
    kept = {name: os.environ[name] for name in ("PATH", "VIRTUAL_ENV") if name in os.environ}
    return subprocess.run(
        [*prefix, "bash", "-c", command], env=kept | named, cwd=ROOT, capture_output=True, text=True, timeout=120
    )


READ_ONLY = 'mount --bind {0} {0} && mount -o remount,ro,bind {0} && exec "$@"'


def read_only(directory: Path) -> list[str]:
    """What starts a command to which a directory is read-only; skips where that cannot be had."""
    inside = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    prefix = [*inside, "bash", "-c", READ_ONLY.format(shlex.quote(str(directory))), "bash"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be had here")
    return prefix


def test_a_read_only_store_gets_an_engine_a_workspace_elsewhere(tmp_path: Path) -> None:
    """FlashInfer can be imported with it, and a comment says why it is another one."""
    root, home = tmp_path / "root", tmp_path / "home"
    (root / "flashinfer").mkdir(parents=True)
    home.mkdir()
    script = 'eval "$lines"; echo "$lines" | head -1; python -c "import flashinfer"; echo "$code $? $CHOSEN"'
    script = script.replace("CHOSEN", "FLASHINFER_WORKSPACE_BASE")
    done = run_env(root, home, script, read_only(root))
    lines = done.stdout.splitlines()
    assert lines[-1] == f"0 0 {home}/.cache/ray-warmup/flashinfer", done.stdout + done.stderr
    assert lines[0].startswith(f"# {root}/flashinfer cannot be FlashInfer's workspace")
    assert "Read-only file system" in lines[0]


def test_where_no_workspace_can_be_had_the_shell_is_told(tmp_path: Path) -> None:
    """The exit code is 1, and so is that of `eval`, which forgets the command's own."""
    (tmp_path / "root").mkdir()
    (tmp_path / "home").mkdir()
    script = 'eval "$lines"; echo "$code $?"'
    done = run_env(tmp_path / "root", tmp_path / "home", script, read_only(tmp_path), TMPDIR=str(tmp_path))
    assert done.stdout.splitlines()[-1] == "1 1", done.stdout + done.stderr


def test_an_engine_on_a_read_only_store_gets_modules_that_no_prune_takes(config: WarmupConfig, tmp_path: Path) -> None:
    """It can leave no lease there, so the path names a copy of its own, which is whole after the store is gone."""
    provider = installed(config)
    root, home = tmp_path / "root", tmp_path / "home"
    home.mkdir()
    done = run_env(root, home, 'eval "$lines"; echo "$lines" | grep "^#"; echo "$PYTHONPATH"', read_only(root))
    lines = done.stdout.splitlines()
    copy = home / ".cache/ray-warmup/flashinfer" / COPIES / provider.name
    assert lines[-1] == str(copy), done.stdout + done.stderr
    assert any("compiled modules are a copy, because none can be held in the store" in line for line in lines)
    again = run_env(root, home, 'eval "$lines"; echo "$PYTHONPATH"', read_only(root))
    assert again.stdout.splitlines()[-1] == str(copy)
    shutil.rmtree(root)
    assert refusal(copy) is None
    (copy / "flashinfer_jit_cache/modules/gemm/gemm.so").write_bytes(b"other")
    assert "is not what was installed" in (refusal(copy) or "")
