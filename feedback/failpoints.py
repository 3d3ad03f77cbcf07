"""Named failpoints, at which a test can make a step fail or the process die.

They are off unless the environment variable PLAUDIT_FAILPOINTS names a file. Each line of that
file is `NAME=raise`, `NAME=kill`, `NAME=stop` (SIGSTOP, until SIGCONT) or `NAME=sleep:SECONDS`. A
line is removed when it fires, so that a retry succeeds. The file may change while the process
runs.
"""

import os
import signal
import time
from pathlib import Path


class FailpointError(Exception):
    """Raised by an armed failpoint."""


def failpoint(name: str) -> None:
    """Perform the action armed for `name`, if any.

    Raises:
        FailpointError: The action is `raise`.

    """
    path = os.environ.get("PLAUDIT_FAILPOINTS")
    if not path or not Path(path).is_file():
        return
    lines = Path(path).read_text().splitlines()
    for line in lines:
        armed, _, action = line.partition("=")
        if armed == name:
            lines.remove(line)
            Path(path).write_text("\n".join(lines))
            _fire(name, action)
            return


def _fire(name: str, action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    if action.startswith("sleep:"):
        time.sleep(float(action.removeprefix("sleep:")))
        return
    raise FailpointError(f"failpoint {name}")
