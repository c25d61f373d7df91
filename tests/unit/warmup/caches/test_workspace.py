"""Where FlashInfer and Triton load their own modules from: nobody else may write there, before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.caches.workspace import LOG, check_code_caches, exposed
from ray_warmup.warmup.disk.trust import believe
from ray_warmup.warmup.errors import StoreError
from tests.lone_rank import lone_rank

STRANGER, GROUP = 54321, 54322
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="files of other users can only be made by root")


@pytest.fixture(autouse=True)
def _nobody_else() -> Iterator[None]:
    believe(CacheSection())
    yield
    believe(CacheSection())


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A workspace with one module, as FlashInfer makes it under an ordinary umask."""
    library = tmp_path / "base" / LOG / "0.7/90a/cached_ops/gemm/gemm.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"\x7fELF")
    library.chmod(0o755)
    return tmp_path / "base"


def check(base: Path, **environ: str) -> None:
    """Check as a rank does, with a Triton cache that is not there yet."""
    check_code_caches(base, {"TRITON_CACHE_DIR": str(base.parent / "triton"), **environ}, base.parent)


def test_a_workspace_of_this_user_alone_is_fine(base: Path) -> None:
    """Present or not, below a sticky /tmp, with a link of this user's own in it."""
    (base / LOG / "include").symlink_to("/usr/include")
    check(base)
    check(base.parent / "absent")
    assert exposed(Path("/tmp") / "ray-warmup-never-made" / LOG) is None


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o2775, 0o757])
@pytest.mark.parametrize("level", ["", ".cache", str(LOG), f"{LOG}/0.7/90a/cached_ops/gemm"])
def test_what_others_can_write_is_refused_at_every_level(base: Path, level: str, mode: int) -> None:
    """The error names the directory, its mode and the variable by which another one is chosen."""
    (base / level).chmod(mode)
    with pytest.raises(StoreError, match=f"mode {mode:04o}.*FLASHINFER_WORKSPACE_BASE") as caught:
        check(base)
    assert str(base / level) in str(caught.value)


def test_a_library_that_others_can_write_is_refused(base: Path) -> None:
    """A directory that nobody else can write may hold a file that somebody can."""
    library = next(base.rglob("*.so"))
    library.chmod(0o666)
    with pytest.raises(StoreError, match=r"gemm\.so can be written by everybody"):
        check(base)
    (base / LOG).chmod(0o700)
    check(base)  # nobody else gets to it


def test_triton_s_cache_is_looked_at_too(base: Path) -> None:
    """Its launchers are libraries."""
    cache = base.parent / "shared"
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(StoreError, match=r"shared can be written by everybody.*TRITON_CACHE_DIR"):
        check(base, TRITON_CACHE_DIR=str(cache))
    home = base.parent / "home"
    (home / ".triton/cache").mkdir(parents=True)
    (home / ".triton").chmod(0o777)
    with pytest.raises(StoreError, match=r"\.triton can be written by everybody"):
        check_code_caches(base, {}, home)


@as_root
def test_a_volume_with_fs_group_is_accepted_by_its_group(base: Path) -> None:
    """Kubernetes makes mode 2775 and the volume's group: named in cache.trusted_gids it is fine, otherwise not."""
    os.chown(base, -1, GROUP)
    base.chmod(0o2775)
    with pytest.raises(StoreError, match=f"name {GROUP} in cache.trusted_gids"):
        check(base)
    believe(CacheSection(trusted_gids=(GROUP,)))
    check(base)


@as_root
def test_modules_of_another_user_are_refused_by_root(base: Path) -> None:
    """Also where only one file is another user's, and where a link is."""
    library = next(base.rglob("*.so"))
    os.chown(library, STRANGER, -1)
    with pytest.raises(StoreError, match=f"belongs to user {STRANGER}"):
        check(base)
    library.unlink()
    library.symlink_to("/tmp")
    os.lchown(library, STRANGER, -1)
    with pytest.raises(StoreError, match=f"belongs to user {STRANGER}"):
        check(base)
    believe(CacheSection(trusted_uids=(STRANGER,)))
    check(base)


def test_a_rank_refuses_before_it_imports_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workspace that everybody can write ends the probe by name."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", str(tmp_path / "open"))
    with pytest.raises(StoreError, match=r"compiled modules are not loaded from .*open.*mode 0777"):
        lone_rank(0, {}, tmp_path / "root")
