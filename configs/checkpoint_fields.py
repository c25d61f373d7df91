"""One JSON object of a checkpoint's files: known names, and values of any type that their readers check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_warmup.configs.errors import ConfigError, shown


@dataclass(frozen=True, slots=True)
class CheckpointFields:
    """The fields of a `config.json`, of a section in it, or of a file beside it."""

    model: str
    """Name of the model, for messages."""
    # A border: other projects write these files, and each field is checked where it is read.
    values: Mapping[str, Any]

    def get(self, field: str, default: Any = None) -> Any:
        """Return a field's unchecked value."""
        return self.values.get(field, default)

    def says(self, field: str) -> bool:
        """Return True if the field is present and not null."""
        return self.values.get(field) is not None

    def section(self, field: str) -> CheckpointFields:
        """Return the fields of a nested mapping. Raises ConfigError if the field is something else."""
        found = self.get(field)
        if not isinstance(found, dict):
            raise self.refusal(field, "must be a mapping")
        return CheckpointFields(self.model, found)

    def refusal(self, field: str, rule: str) -> ConfigError:
        """Return the error that names a field, its value and the rule that it breaks."""
        return ConfigError(f"model {self.model}: {field} is {shown(self.get(field))}; {rule}")

    def flag(self, field: str) -> Any:
        """Return a field that is true, false or absent. Raises ConfigError for any other value."""
        value = self.get(field)
        if value not in (None, True, False):
            raise self.refusal(field, "must be true or false")
        return value
