"""Texts for operators: no word of ours that is explained nowhere, in whatever an error, a warning or a command says.

Every text is found in the code: what is raised, told, warned of or answered by `ray-warmup doctor`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("configs", "warmup", "actors", "scripts")
TOLD = ("complain", "say", "warn", "warning", "error", "fail", "ok", "echo", "refusal", "Finding", "Ending")
OURS = (
    *("launchers?", "conductors?", "seams?", "joiners?", "markers?", "sidecars?", "ancestors?", "lineage", "culprits?"),
    *("was not read", "were not read", "speaks another version", "goes its own way", "single[ -]flight", "front end"),
    *("border", "wire", "suspects?", "recall(ed|s)?", "degraded", "adopt(ed|s)?", "own calls", "machine's commands"),
)
"""Names of parts of this project, and its figures of speech. Words of ARCHITECTURE.md's glossary are no such names."""
FORBIDDEN = re.compile(rf"(?<![\w.])({'|'.join(OURS)})(?![\w.])", re.IGNORECASE)
INTERNAL = ("internal error, please report",)
"""Texts of which an operator needs no word but these."""


def words_of(node: ast.expr) -> str:
    """The literal words of a text, without what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
    if isinstance(node, ast.BinOp):
        return words_of(node.left) + words_of(node.right)
    return ""


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Line and words of everything that is raised or told."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            calls = [node.exc]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in TOLD:
            calls = [node]
        else:
            continue
        for call in calls:
            for argument in call.args:
                words = words_of(argument)
                if " " in words and not any(text in words for text in INTERNAL):
                    yield node.lineno, words


def own_words(source: str) -> list[str]:
    """Texts with a word of ours: line and word."""
    found = []
    for line, words in texts(source):
        for match in FORBIDDEN.finditer(words):
            found.append(f"{line}: {match[0]}: {words[:100]}")
    return found


def test_no_text_for_operators_uses_our_own_words() -> None:
    """In the whole product."""
    found = {}
    count = 0
    for folder in PACKAGES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            source = path.read_text()
            count += len(list(texts(source)))
            offenders = own_words(source)
            if offenders:
                found[str(path.relative_to(ROOT))] = offenders
    assert found == {}
    assert count > 700


@pytest.mark.parametrize(
    "planted",
    [
        'raise EngineError("the launcher is in no placement group")',
        'raise EngineError(f"{name} {version} was not read; known are {known}")',
        'complain(f"a message of the conductor at {address}")',
        'run.warn("the seams of FlashInfer changed", remedies.STORE)',
        'logger.warning("no marker could be left: %s -> do it", error)',
        'raise StartupError("a rank " + "speaks another version")',
    ],
)
def test_a_word_of_ours_is_found(planted: str) -> None:
    """Raised, told, warned of or logged."""
    assert len(own_words(planted)) == 1


def test_settings_and_paths_are_no_words() -> None:
    """`timeouts.single_flight` is the name of a setting, which a text must give."""
    assert own_words('raise BusyError("it did not end within 5 s (timeouts.single_flight)")') == []
    assert own_words('raise AssertionError("the conductor knows it (internal error, please report)")') == []
