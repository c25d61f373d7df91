"""Facts of a model class: read from a file, or found out at a price and written there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vllm import envs


class _LazyRegisteredModel:
    def __init__(self, module_name: str, class_name: str) -> None:
        self.module_name, self.class_name = module_name, class_name

    @staticmethod
    def _get_cache_dir() -> Path:
        return Path(envs.VLLM_CACHE_ROOT) / "modelinfos"

    def _get_cache_filename(self) -> str:
        return f"{self.module_name}-{self.class_name}.json"

    def _load_modelinfo_from_cache(self, module_hash: str) -> Any | None:
        path = self._get_cache_dir() / self._get_cache_filename()
        return json.loads(path.read_text()) if path.is_file() else None

    def inspect_model_cls(self) -> Any:
        """Found facts, or new ones that are kept."""
        found = self._load_modelinfo_from_cache("hash")
        if found is not None:
            return found
        directory = self._get_cache_dir()
        directory.mkdir(parents=True, exist_ok=True)
        facts = {"hash": "hash", "modelinfo": {}}
        (directory / self._get_cache_filename()).write_text(json.dumps(facts))
        return facts
