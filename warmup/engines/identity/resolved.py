"""A request as the engine of a node resolves it, and how nodes differ in it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping

from ray_warmup.warmup.codec import message


@message
class Resolved:
    """A request as the engine of one node resolves it."""

    engine_version: str
    identity: tuple[tuple[str, str], ...]
    """Named parts of the identity under which an artifact would be recorded and found."""
    settings: dict[str, str]
    """`section.field` -> text of the resolved configuration."""
    digests: tuple[tuple[str, str], ...]
    """(file, sha256) of config.json and the quantization's file, and of the resolved configuration."""
    class_arguments: tuple[str, ...] = ()
    """Arguments that change the identity, as `name=value`; asked for by `explain` alone."""
    other_arguments: tuple[str, ...] = ()
    """Arguments that leave the identity as it is."""
    not_covered: tuple[str, ...] = ()
    """What no recording of this model covers."""

    @property
    def key_sha256(self) -> str:
        """Digest of the identity: the name of the artifact's store."""
        return hashlib.sha256(json.dumps(self.identity).encode()).hexdigest()


def node_differences(answers: Mapping[str, Resolved]) -> tuple[str, ...]:
    """Name the nodes whose model or configuration is another one than that of most nodes, and what differs.

    `answers` are by the node's name as it shall be shown.
    """
    problems = []
    names = dict.fromkeys(name for answer in answers.values() for name, _ in answer.digests)
    for name in names:
        found = {node: dict(answer.digests).get(name, "absent") for node, answer in answers.items()}
        if len(set(found.values())) < 2:
            continue
        usual = Counter(found.values()).most_common(1)[0][0]
        others = ", ".join(f"{node} ({digest[:12]})" for node, digest in found.items() if digest != usual)
        problems.append(f"{name} differs on {others} from the other nodes ({usual[:12]}){_parts(name, answers)}")
    return tuple(problems)


def _parts(name: str, answers: Mapping[str, Resolved]) -> str:
    """Name the parts in which resolved configurations differ, where that is what differs."""
    if name != "resolved configuration":
        return ""
    parts: dict[str, set[str]] = {}
    for answer in answers.values():
        for part, value in answer.identity:
            parts.setdefault(part, set()).add(value)
    differing = [part for part, values in parts.items() if len(values) > 1]
    if not differing:
        return ""
    return f": {', '.join(differing)}"
