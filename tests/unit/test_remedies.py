"""No warning without a remedy: every warning of a run and of `ray-warmup doctor` says what to do about it.

Warnings of a run enter by `warn(text, remedy)` of its state. Calls are found in the code, by that name; planted ones
without a remedy are found, too. Remedies name settings and commands that exist.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from ray_warmup.configs import WarmupConfig, parse_config
from ray_warmup.scripts.cli import app
from ray_warmup.warmup import remedies
from ray_warmup.warmup.doctor.finding import error, warning
from ray_warmup.warmup.machine.state.run import Run

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("warmup", "actors", "scripts")
DOCTOR = ("warning", "error")
NAMED = {name: value for name, value in vars(remedies).items() if name.isupper() and name != "ARROW"}
SETTING = re.compile(r"\b(cluster|model|autotune|guard|engine|cache|timeouts)\.([a-z_]+)\b")
COMMAND = re.compile(r"`ray-warmup ([a-z]+)( [a-z]+)?")


def calls(text: str, names: tuple[str, ...]) -> Iterator[ast.Call]:
    """Calls of these names, as a function or as a method of a run."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Attribute) and called.attr in names and _is_run(called.value):
            yield node
        if isinstance(called, ast.Name) and called.id in names:
            yield node


def _is_run(node: ast.expr) -> bool:
    """`run`, `self.run`, `machine.run`."""
    return getattr(node, "id", "") == "run" or getattr(node, "attr", "") == "run"


def lacking(text: str, names: tuple[str, ...], position: int) -> list[int]:
    """Lines of calls whose argument at a position is no remedy: a text, or a constant of `remedies`."""
    return [call.lineno for call in calls(text, names) if not _is_remedy(call.args[position : position + 1])]


def _is_remedy(arguments: list[ast.expr]) -> bool:
    if not arguments:
        return False
    (argument,) = arguments
    if isinstance(argument, ast.Constant):
        return isinstance(argument.value, str) and bool(argument.value.strip())
    if isinstance(argument, ast.Attribute):
        return getattr(argument.value, "id", "") == "remedies" and argument.attr in NAMED
    return isinstance(argument, ast.JoinedStr)


def sources(*folders: str) -> list[Path]:
    """Every file of these folders."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_every_warning_of_a_run_has_a_remedy() -> None:
    """Of tuning runs and of runs with a real engine."""
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in sources(*PACKAGES)}
    assert {name: lines for name, text in texts.items() if (lines := lacking(text, ("warn",), 1))} == {}
    assert sum(len(list(calls(text, ("warn",)))) for text in texts.values()) > 35


def test_every_finding_of_the_doctor_has_a_remedy() -> None:
    """`warning` and `error` of a check."""
    paths = [*sources("warmup/doctor"), ROOT / "actors" / "questions" / "examination.py"]
    texts = {path.name: path.read_text() for path in paths}
    assert {name: lines for name, text in texts.items() if (lines := lacking(text, DOCTOR, 2))} == {}
    assert sum(len(list(calls(text, DOCTOR))) for text in texts.values()) > 25


def bare_log_lines(text: str) -> list[int]:
    """Lines of `logger.warning` whose text, or the variable `text` set right before it, has no arrow."""
    lines = text.splitlines()
    found = []
    for node in ast.walk(ast.parse(text)):
        called = getattr(node, "func", None)
        if getattr(called, "attr", "") == "warning" and getattr(getattr(called, "value", None), "id", "") == "logger":
            said = "".join(lines[node.lineno - 2 : node.end_lineno])
            if remedies.ARROW not in said:
                found.append(node.lineno)
    return found


def warnings_without_remedy(text: str) -> list[int]:
    """Lines of `logger.warning` whose format has nothing behind an arrow: words, or a constant of `remedies`."""
    found = []
    for node in ast.walk(ast.parse(text)):
        called = getattr(node, "func", None)
        if getattr(called, "attr", "") != "warning" or getattr(getattr(called, "value", None), "id", "") != "logger":
            continue
        said, *values = node.args
        remedy = ""
        if isinstance(said, ast.Constant) and isinstance(said.value, str):
            remedy = said.value.partition(remedies.ARROW)[2].strip()
        if remedy == "%s" and _is_remedy(values[-1:]):
            continue
        if len(remedy) < len("do it"):
            found.append(node.lineno)
    return found


def test_what_ranks_and_engines_log_as_a_warning_says_what_to_do() -> None:
    """Their logs are read when something is wrong. What nobody can do anything about is logged as information."""
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in sources("warmup")}
    assert {name: lines for name, text in texts.items() if (lines := warnings_without_remedy(text))} == {}
    assert sum(text.count("logger.warning(") for text in texts.values()) > 40


@pytest.mark.parametrize(
    "planted",
    [
        'logger.warning("%s is ignored: %s", path, error)',
        'logger.warning("lost -> ")',
        'logger.warning("lost -> %s", error)',
        'logger.warning("lost -> %s", remedies.NO_SUCH)',
        "logger.warning(text)",
    ],
)
def test_a_log_line_without_a_remedy_is_found(planted: str) -> None:
    """Missing, empty, or of whatever a variable holds."""
    assert warnings_without_remedy(planted) == [1]
    assert warnings_without_remedy('logger.warning("lost: %s -> %s", error, remedies.STORE)') == []
    assert warnings_without_remedy('logger.warning("%s is ignored -> remove the file", path)') == []


def test_what_a_command_logs_as_a_warning_says_what_to_do() -> None:
    """In the processes that a person starts; those of ranks and engines log into Ray's files.

    `wait` passes on what it waits for, and a model's dimensions what was read from its files.
    """
    passed_on = {"actors/questions/waiting.py", "configs/dimensions.py"}
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in sources("scripts", "actors", "configs")}
    found = {name: lines for name, text in texts.items() if (lines := bare_log_lines(text))}
    assert set(found) <= passed_on, found
    assert bare_log_lines('a = 1\nlogger.warning("x")\n') == [2]
    assert bare_log_lines('text = "x -> y"\nlogger.warning(text)\n') == []


@pytest.mark.parametrize(
    "planted",
    ['run.warn("lost")', 'self.run.warn(f"{a}", "")', "machine.run.warn(a, remedies.NO_SUCH)", "run.warn(a, b)"],
)
def test_a_warning_without_a_remedy_is_found(planted: str) -> None:
    """Missing, empty, unknown, or of whatever a variable holds."""
    assert lacking(planted, ("warn",), 1) == [1]
    assert lacking('run.warn("lost", remedies.NODE_LOST); run.warn(a, "do this")', ("warn",), 1) == []


def test_nothing_else_writes_a_runs_warnings() -> None:
    """What is appended beside `warn` would have no remedy."""
    writers = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources(*PACKAGES)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"run\.warnings(\.append|\.extend| \+=)", line)
    ]
    assert writers == []


def test_an_empty_remedy_is_refused() -> None:
    """Also where it is only known when the program runs."""
    run = Run(parse_config({"model": {"name": "llama-3.1-8b"}, "cluster": {"world_size": 8}}), "r", {})
    with pytest.raises(ValueError, match="needs a text and a remedy"):
        run.warn("lost", " ")
    with pytest.raises(ValueError, match="without a remedy"):
        warning("gpu", "slow", "")
    with pytest.raises(ValueError, match="without a remedy"):
        error("gpu", "gone", "")
    run.warn("lost", "look")
    run.warn("lost", "look")
    assert run.warnings == ["lost -> look"]
    assert remedies.parts("lost -> look") == ("lost", "look")
    assert remedies.parts("of an earlier release") == ("of an earlier release", "")


@pytest.mark.parametrize("name", sorted(NAMED))
def test_remedies_name_what_exists(name: str) -> None:
    """Settings are fields of the configuration, commands those of the command line; each says something to do."""
    text = NAMED[name]
    settings, commands = SETTING.findall(text), COMMAND.findall(text)
    for section, field in settings:
        fields = WarmupConfig.model_fields[section].annotation.model_fields
        assert field in fields, f"{section}.{field}"
    group = typer.main.get_command(app)
    for command, sub in commands:
        found = group.commands[command]
        if sub and hasattr(found, "commands"):
            assert sub.strip() in found.commands
    assert settings or commands or text.startswith(("nothing to do", "look at"))
