"""The worker's side of a contest: wait for a turn, and report its figures.

It uses only the standard library, because workers also run in environments without Plaudit.
"""

import json
import os
import resource
import sys


class Turns:
    """Protocol of a worker: one line of JSON with facts, then one line of figures for each turn."""

    def __init__(self) -> None:
        """Reserve standard output for reports; other output is redirected to standard error."""
        self._figures = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def report(self, **figures: object) -> None:
        """Send facts or figures to the contest."""
        print(json.dumps(figures), file=self._figures)

    def wait(self) -> None:
        """Wait for the next turn; exit the process if there is none."""
        if not sys.stdin.readline():
            sys.stdout.flush()
            os._exit(0)  # called within a training loop, which has nothing to save


class Memory:
    """Memory that a worker's models and steps take: of the GPU, or else of the process."""

    def __init__(self, device: str) -> None:
        """Start counting; on a CPU what the process has used until now does not count."""
        self._device = device
        self._before = 0
        self._before = self.peak()

    def peak(self) -> int:
        """Return the largest number of bytes until now."""
        if self._device == "cuda":
            import torch

            return int(torch.cuda.max_memory_allocated())
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._before
