"""End every command with one message and an exit code, never with a traceback.

`GuardedGroup` wraps all commands. SIGTERM is handled like Ctrl-C but has its own exit code: the run's resources are
released, and its verdict is left on the nodes.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from ray_warmup.actors.errors import EXIT_BUSY, EXIT_FAILED, EXIT_TERMINATED, EXIT_USAGE, BusyError
from ray_warmup.configs import ConfigError
from ray_warmup.scripts.terminal.console import plain_lines
from ray_warmup.warmup.errors import EngineRequestError, WarmupError

logger = logging.getLogger(__name__)

CLICKS_OWN: tuple[type[BaseException], ...] = (typer.Exit, typer.Abort, typer.BadParameter.__mro__[2], BrokenPipeError)
"""Exceptions by which the command line library ends a command. The third is the base of its usage errors."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Message and exit code of a command that failed."""

    message: str
    code: int


class Sigterm:
    """SIGTERM as an interrupt: the first one raises KeyboardInterrupt, later ones leave the tidying alone."""

    def __init__(self) -> None:
        self.has_arrived = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal's handler."""
        # A supervisor may send several, and a second interrupt would break off the tidying of the first.
        if not self.has_arrived:
            self.has_arrived = True
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handled here while a command runs."""
        # Python sets signal handlers in the main thread only.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.has_arrived = False
        before = signal.signal(signal.SIGTERM, self)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


SIGTERM = Sigterm()


class GuardedGroup(TyperGroup):
    """A group of commands that ends by one message where a command raises."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        with SIGTERM.installed():
            try:
                return super().invoke(ctx)
            except CLICKS_OWN:
                raise
            except (Exception, KeyboardInterrupt) as error:
                ending = ending_of(error)
        tell(ending)
        raise typer.Exit(ending.code)


def ending_of(error: BaseException) -> Ending:
    """The message and the exit code for anything that a command may raise."""
    if isinstance(error, KeyboardInterrupt):
        return Ending("interrupted", EXIT_TERMINATED if SIGTERM.has_arrived else EXIT_FAILED)
    # Before WarmupError, of which some of these are kinds.
    if isinstance(error, ConfigError | EngineRequestError):
        return Ending(f"ray-warmup: {error}", EXIT_USAGE)
    if isinstance(error, BusyError):
        return Ending(f"ray-warmup: {error}", EXIT_BUSY)
    if isinstance(error, WarmupError):
        return Ending(f"ray-warmup: {error}", EXIT_FAILED)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("ray_warmup."):
        return Ending(f"ray-warmup: {_lost_code(error)}", EXIT_FAILED)
    logger.info("unexpected", exc_info=error)
    if isinstance(error, OSError) and error.strerror:
        where = ""
        if error.filename is not None:
            where = f"{error.filename}: "
        return Ending(f"ray-warmup: {where}{error.strerror} (errno {error.errno})", EXIT_FAILED)
    text = f"{type(error).__name__}: {error}".strip(": ")
    shown = f"internal error, please report: {text}{_place(error)}; `ray-warmup -v ...` logs the traceback"
    return Ending(f"ray-warmup: {shown}", EXIT_FAILED)


def _lost_code(error: ModuleNotFoundError) -> str:
    """Say why a part of this package, which was there when the command began, cannot be imported."""
    return (
        f"{error.name} is gone from {Path(__file__).resolve().parents[2]}. Nodes of Ray on one machine share the "
        "directory of a job's files, and each unpacks it anew under the running job. Run `ray-warmup run` on a node "
        "instead of a job, or install ray-warmup again if its files were removed"
    )


def tell(ending: Ending) -> None:
    """Print an ending on stderr.

    Undecodable bytes and terminal control characters are escaped.
    """
    typer.echo(plain_lines(ending.message), err=True)


def _place(error: BaseException) -> str:
    """The innermost line of ours that the error went through."""
    root = str(Path(__file__).resolve().parents[2])
    frames = [f for f in traceback.extract_tb(error.__traceback__) if str(Path(f.filename).resolve()).startswith(root)]
    if frames:
        return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
    return ""
