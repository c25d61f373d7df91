"""What an import puts in place beside the table: enough for an engine that starts without a run, and nothing unfit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.configs import WarmupConfig, load_config
from ray_warmup.scripts.commands.env import environment_of
from ray_warmup.warmup.artifact.artifact import Artifact, Content, table_content
from ray_warmup.warmup.cache_admin import compiled_install
from ray_warmup.warmup.cache_admin.exporting import export_store
from ray_warmup.warmup.caches import compute_cache, flashinfer_modules
from ray_warmup.warmup.errors import UnsafeArchiveError
from ray_warmup.warmup.rank.forecast import forecast_rank
from ray_warmup.warmup.store.node_store import NodeStore
from tests.artifacts import ROOT, make_artifact, table_bytes
from tests.cache_requests import perform

GPU = {"driver": "580.1", "arch": "90a", "cuda_version": "13.0"}
CPU = {"driver": "", "arch": "cpu-x86_64", "cuda_version": ""}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node of its own: caches where the libraries look by default, torch for CUDA 13.0, no GPU."""
    for name in ("PYTHONPATH", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "FLASHINFER_WORKSPACE_BASE", "TRITON_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(compiled_install, "torch_facts", lambda: ("2.11.0", "13.0"))
    monkeypatch.setattr(compiled_install, "gpu_parts", no_gpu)
    return tmp_path / "home"


def no_gpu(index: int, arch_list: str | None) -> dict[str, str]:
    """What NVML says without a driver."""
    raise RuntimeError("NVML cannot be initialised: Driver Not Loaded")


def compiled(tmp_path: Path, made_on: dict[str, str], **changes: Any) -> Artifact:
    """An artifact of every compiled kind, with a module that any process of this Python can load."""
    process = flashinfer_modules.describe_process(
        made_on["cuda_version"], (made_on["arch"],) if made_on["driver"] else ()
    )
    library = tmp_path / "python.so"
    library.write_bytes(Path(sys.executable).resolve().read_bytes())
    (tmp_path / "nv/0").mkdir(parents=True, exist_ok=True)
    (tmp_path / "nv/0/kernel").write_bytes(b"kernel")
    group = b'{"child_paths": {"k.cubin": "k.cubin"}}'
    contents = [
        table_content(table_bytes(1)),
        *flashinfer_modules.collect({"python": library}, process | changes.pop("needs", {})),
        Content("triton_cache", "E/k.cubin", b"cubin"),
        Content("triton_cache", "E/__grp__k.json", group),
        *(compute_cache.collect(tmp_path / "nv", made_on["driver"]) if made_on["driver"] else ()),
    ]
    fingerprint = {"flashinfer_version": process["flashinfer"], **made_on}
    return make_artifact(contents=contents, fingerprint=fingerprint, **changes)


@pytest.fixture
def imported(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`imported(made_on, **changes)`: such an artifact's way through one file; the answer of `import`."""

    def through_a_file(made_on: dict[str, str], **changes: Any) -> dict[str, Any]:
        maker = NodeStore(tmp_path / "maker")
        maker.publish(compiled(tmp_path, made_on, **changes))
        export_store(maker.directory, tmp_path / "one.rwa")
        answer = perform("import", {"root": str(tmp_path / "root"), "file": str(tmp_path / "one.rwa")})
        assert answer["ok"], answer
        return dict(answer["result"])

    return through_a_file


def in_place(home: Path) -> list[bool]:
    """Whether modules, Triton's entries and the driver's kernels lie where an engine looks."""
    modules = home.parent.glob("root/flashinfer_autotune_cache/*/*/*/installed/*/flashinfer_jit_cache/__init__.py")
    return [any(modules), (home / ".triton/cache/E/k.cubin").is_file(), (home / ".nv/ComputeCache/0/kernel").is_file()]


def test_an_image_without_a_gpu_gets_everything(imported: Callable[..., dict[str, Any]], home: Path) -> None:
    """All parts are in place, for the device that the artifact names; a second import writes none of it again."""
    answer = imported(GPU)
    assert answer["placed"] == {"flashinfer_module": 3, "triton_cache": 2, "cuda_compute_cache": 1}
    assert answer["notes"] == ["no GPU here: it is for nodes with driver '580.1' and '90a'"]
    assert in_place(home) == [True, True, True]
    assert set(imported(GPU)["placed"].values()) == {0}


def test_a_node_of_that_device_gets_everything(
    imported: Callable[..., dict[str, Any]], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has to be believed where there is such a GPU."""
    monkeypatch.setattr(compiled_install, "gpu_parts", lambda index, arch_list: GPU)
    assert imported(GPU)["notes"] == []
    assert in_place(home) == [True, True, True]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"driver": "590.2"}, "driver: made with '580.1', this node has '590.2'"),
        ({"arch": "80"}, "arch: made with '90a'"),
    ],
)
def test_another_device_gets_nothing_but_a_note(
    imported: Callable[..., dict[str, Any]],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    other: dict[str, str],
    said: str,
) -> None:
    """Published it is all the same: other nodes on that directory may have the device."""
    monkeypatch.setattr(compiled_install, "gpu_parts", lambda index, arch_list: GPU | other)
    answer = imported(GPU)
    assert (answer["placed"], len(answer["notes"])) == ({}, 1)
    assert said in answer["notes"][0]
    assert in_place(home) == [False, False, False]
    assert Path(answer["path"]).is_file()


def test_another_cuda_is_a_note(
    imported: Callable[..., dict[str, Any]], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine with torch for CPU only, say, to which a file was brought on its way elsewhere."""
    monkeypatch.setattr(compiled_install, "torch_facts", lambda: ("2.11.0", None))
    assert "cuda_version: made with '13.0'" in imported(GPU)["notes"][0]
    assert in_place(home) == [False, False, False]


def test_a_part_that_does_not_fit_costs_that_part(imported: Callable[..., dict[str, Any]], home: Path) -> None:
    """Modules of another Python are left out with a note; the rest is in place."""
    answer = imported(GPU, needs={"python_abi": "cpython-399"})
    assert "python_abi: built for 'cpython-399'" in answer["notes"][-1]
    assert in_place(home) == [False, True, True]


def test_an_architecture_that_is_a_path_is_refused(tmp_path: Path) -> None:
    """The name becomes part of a path: nothing is written outside."""
    store = NodeStore(tmp_path / "store")
    store.publish(compiled(tmp_path, GPU | {"arch": "x/../../elsewhere"}))
    with pytest.raises(UnsafeArchiveError, match="member path"):
        compiled_install.put_in_place(store, 1, tmp_path / "workspace", {"HOME": str(tmp_path / "home")})


def test_an_engine_finds_imported_modules_by_env_alone(tmp_path: Path, imported: Callable[..., dict[str, Any]]) -> None:
    """Export, import below another root, `ray-warmup env`: what FlashInfer asks for modules has it, without a run."""
    config: WarmupConfig = load_config(
        "cpu_two_nodes", [f"cache.root={tmp_path / 'root'}", "cluster.simulated_nodes=0", "cluster.backend=cpu"]
    )
    forecast = forecast_rank(config, 0)
    imported(CPU, key=forecast.key.as_dict(), key_sha256=forecast.key.sha256)
    found = environment_of(config, 0)
    environment = found.process
    assert found.table.is_file()
    code = "import flashinfer_jit_cache as ours; print(ours.__file__, *ours.get_jit_cache_providers()[0].modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=environment.merged(dict(os.environ)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    provider = Path(environment.variables()["PYTHONPATH"])
    assert ran.stdout.split() == [str(provider / "flashinfer_jit_cache/__init__.py"), "python"]
    assert (provider / "flashinfer_jit_cache/modules/python/python.so").is_file()
