"""A driver process with the scripted tuner: `python -m tests.scripted_driver config.json [--no-wait]`.

Prints one line per event, then the report; the exit codes are the command line's.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path


def main() -> int:
    """Run a config and say how it went."""
    from ray_warmup.actors.driver.warmup_run import run_warmup
    from ray_warmup.configs import parse_config
    from ray_warmup.scripts.terminal.endings import SIGTERM, ending_of
    from tests.testbed import SCRIPTED

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests in the background ignores it
    config = parse_config(json.loads(Path(sys.argv[1]).read_text()))
    try:
        with SIGTERM.installed():
            report = run_warmup(config, tuner=SCRIPTED, on_event=lambda event: print(json.dumps(event), flush=True))
    except KeyboardInterrupt as interrupt:
        ending = ending_of(interrupt)
        print(ending.message, flush=True)
        return ending.code
    print(report.to_json(), flush=True)
    return 0 if report.ready else 1


if __name__ == "__main__":
    sys.exit(main())
