"""A build of this node's missing modules that its rank looks after step by step, while the rest goes on.

Which modules are missing is the tuner's to say; when to look, and what becomes of a finished one, the machine's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from ray_warmup.warmup.device.tuner import Tuner


class ModuleBuild:
    """One build of modules, which continues in the background until it is over."""

    def __init__(self, tuner: Tuner, modules: Sequence[str], jobs: int) -> None:
        self.unfinished = tuple(modules)
        """In the order in which they were begun; a library of one of these may be half written."""
        self._num_modules = len(self.unfinished)
        self._began = time.monotonic()
        self._steps = tuner.compile(modules, jobs)
        self._said = ", ".join(modules)

    def step(self, say: Callable[[str], None]) -> tuple[str, ...]:
        """Wait until more modules are finished, and return their names.

        `say` receives the progress. Raises CompileError.
        """
        say(f"{self._num_modules - len(self.unfinished)} of {self._num_modules} modules: {self._said}")
        built = next(self._steps, self.unfinished)
        self.unfinished = tuple(name for name in self.unfinished if name not in built)
        self._said = f"{', '.join(built)} built after {time.monotonic() - self._began:.1f} s"
        return built

    def forget(self, names: Collection[str]) -> None:
        """Remove modules that came from another node from the unfinished ones."""
        self.unfinished = tuple(name for name in self.unfinished if name not in names)
