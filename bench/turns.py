"""A worker's end of a contest: it takes a turn when it is told to, and says how that went.

Standard library only, since workers also run in environments that have nothing else of ours.
"""

import json
import os
import sys


class Turns:
    """Lines of JSON: facts once, then a line of figures for every line that is read."""

    def __init__(self) -> None:
        """Take standard output for the figures; whatever else prints there goes to stderr."""
        self._figures = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def say(self, **figures: object) -> None:
        """Tell the contest something."""
        print(json.dumps(figures), file=self._figures)

    def wait(self) -> None:
        """Wait for the next turn; the process ends when there is none."""
        if not sys.stdin.readline():
            sys.stdout.flush()
            os._exit(0)  # from inside a training loop, which has nothing to save
