"""Child processes that are restarted after a crash and die with their parent."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from feedback.home import open_private

_PR_SET_PDEATHSIG = 1
STOP_SECONDS = 30.0
_BACKOFF_SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
_STEADY_SECONDS = 120.0


def stop_on_signals() -> threading.Event:
    """Return an event that SIGINT and SIGTERM set from now on.

    A signal handler interrupts the main thread, possibly inside a call on this event; setting the
    event there would deadlock on the lock that this call holds. So a thread sets it, notified
    through a `SimpleQueue`, whose `put` is reentrant.
    """
    stop = threading.Event()
    signals: SimpleQueue[int] = SimpleQueue()

    def wait() -> None:
        signals.get()
        stop.set()

    threading.Thread(target=wait, name="plaudit-signals", daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.put(number))
    return stop


def plaudit_command(*arguments: str) -> list[str]:
    """Return the command line that runs a `plaudit` command in this environment."""
    return [sys.executable, "-m", "deploy.commands.main", *arguments]


@dataclass
class Child:
    """A child process of `plaudit up`, restarted when it crashes.

    The process leads its own process group, so that its children can be killed with it.

    Attributes:
        name: Name in messages.
        command: Command line.
        log_file: File that its output is appended to.
        environment: Environment variables beside those of this process.
        niceness: Increment of the scheduling niceness.
        process: The running process; None between a crash and the restart.
        started: Time of the last start (monotonic).
        crashes: Number of crashes in short succession.
        next_start: Time of the next restart (monotonic).

    """

    name: str
    command: Sequence[str]
    log_file: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    niceness: int = 0
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    crashes: int = 0
    next_start: float = 0.0

    def start(self) -> None:
        """Start the process."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_file, "ab", opener=open_private) as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,
                preexec_fn=self._prepare,
            )
        self.started = time.monotonic()

    def _prepare(self) -> None:
        """Run in the child before the command: die with the parent, and apply the niceness."""
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        os.nice(self.niceness)

    def check(self, echo: Callable[[str], None]) -> None:
        """Restart the process if it has died, after a pause that grows with each crash."""
        now = time.monotonic()
        if self.process is None:
            if now >= self.next_start:
                self.start()
                echo(f"Restarted {self.name} (process {self.process.pid})")  # type: ignore[attr-defined]
            return
        code = self.process.poll()
        if code is None:
            return
        self.kill_group()
        self.crashes = 1 if now - self.started > _STEADY_SECONDS else self.crashes + 1
        pause = _BACKOFF_SECONDS[min(self.crashes, len(_BACKOFF_SECONDS)) - 1]
        self.process = None
        self.next_start = now + pause
        reason = f"signal {-code}" if code < 0 else f"exit status {code}"
        echo(
            f"{self.name} stopped with {reason}; restarting it in {pause:.0f} s. "
            f"See {self.log_file}"
        )

    def kill_group(self) -> None:
        """Kill what is left of the process group."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def terminate(self) -> None:
        """Ask the process to stop."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self, deadline: float) -> bool:
        """Wait until `deadline` (monotonic), kill the group; return whether it ended in time."""
        if self.process is None:
            return True
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
            clean = True
        except subprocess.TimeoutExpired:
            clean = False
        self.kill_group()
        self.process.wait()
        return clean


def stop_all(children: Sequence[Child], echo: Callable[[str], None]) -> None:
    """Stop all children together; kill those that take longer than STOP_SECONDS."""
    for child in children:
        child.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for child in children:
        if not child.wait(deadline):
            echo(f"{child.name} did not stop in {STOP_SECONDS:.0f} s and was killed")
