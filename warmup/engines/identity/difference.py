"""Say how a recorded identity differs from a wanted one, in the words of the engine's own settings.

A part whose value is a JSON object (environment, digests of sections) is compared member by member.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ray_warmup.warmup.artifact.mapping_difference import changed

SECTIONS = "sections"
"""Part whose members are digests: a difference there is said by the settings that the digest is made of."""
ABSENT = "unset"
SHOWN = 12
"""Differences in one text."""
LONGEST = 80
"""Characters of one value."""


def differences(
    recorded: Mapping[str, str],
    wanted: Mapping[str, str],
    recorded_settings: Mapping[str, str],
    wanted_settings: Mapping[str, str],
) -> tuple[str, ...]:
    """List what differs, most readable first: `max_num_seqs 256, recorded 1024`.

    Args:
        recorded: parts of the artifact's identity.
        wanted: parts of the identity of the start in question.
        recorded_settings: `section.field` to text, stored beside the artifact; may be empty.
        wanted_settings: the same of the start in question.
    """
    rows: list[str] = []
    digests: list[str] = []
    for name, (old, new) in changed(recorded, wanted).items():
        members = _changed_members(old, new)
        if name == SECTIONS and members is not None:
            digests = [member for member in members if member != "all"]
        elif members is not None:
            for member, (was, now) in members.items():
                rows.append(_row(member, now, was))
        else:
            rows.append(_row(_short(name), new, old))
    named = set(map(_first, rows))
    for row in _settings(digests, recorded_settings, wanted_settings):
        if _first(row) not in named:
            rows.append(row)
    return tuple(rows)


def in_words(rows: tuple[str, ...]) -> str:
    """Join the first differences to one text."""
    more = ""
    if len(rows) > SHOWN:
        more = f"; and {len(rows) - SHOWN} more"
    return "; ".join(rows[:SHOWN]) + more


def _settings(digests: list[str], recorded: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Name the settings behind changed digests, or the section where no setting tells."""
    rows: list[str] = []
    settings = changed(recorded, wanted)
    for section in digests:
        found = []
        for name, (old, new) in settings.items():
            if name.startswith(f"{section}."):
                found.append(_row(_short(name), new, old))
        rows += found or [f"{section}: another digest"]
    return rows


def _changed_members(recorded: str | None, wanted: str | None) -> dict[str, tuple[str | None, str | None]] | None:
    """Members of two JSON objects that differ, as (recorded, wanted). None where one is no object."""
    old, new = _object(recorded), _object(wanted)
    if old is None or new is None:
        return None
    return changed(old, new)


def _object(part: str | None) -> dict[str, str] | None:
    try:
        value = json.loads(part or "")
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    return {str(name): str(member) for name, member in value.items()}


def _row(name: str, wanted: str | None, recorded: str | None) -> str:
    return f"{name} {_shown(wanted)}, recorded {_shown(recorded)}"


def _short(name: str) -> str:
    """Leave out the section of a setting whose own name is plain enough."""
    section, dot, field = name.partition(".")
    is_plain = section in ("scheduler_config", "model_config", "parallel_config", "cache_config")
    if dot and is_plain:
        return field
    return name


def _shown(value: str | None) -> str:
    text = ABSENT if value is None else value
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}..."


def _first(row: str) -> str:
    return row.partition(" ")[0]
