"""Processes that stop when they are told to, and children that die with their parent."""

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

_PR_SET_PDEATHSIG = 1
STOP_SECONDS = 30.0
_BACKOFF_SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
_STEADY_SECONDS = 120.0


def stop_on_signals() -> threading.Event:
    """Return an event that SIGINT and SIGTERM set from now on, however often they come.

    A handler runs in the midst of whatever the main thread is at, which may be a call on this
    event; setting it there would wait for ever for the lock that the call holds. A thread sets it,
    told by the one queue of Python's that may be used in a handler.
    """
    stop = threading.Event()
    told: SimpleQueue[int] = SimpleQueue()

    def wait() -> None:
        told.get()
        stop.set()

    threading.Thread(target=wait, name="plaudit-signals", daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: told.put(number))
    return stop


def plaudit_command(*arguments: str) -> list[str]:
    """Return the command line that runs a `plaudit` command in this environment."""
    return [sys.executable, "-m", "deploy.commands.main", *arguments]


@dataclass
class Child:
    """One part of Plaudit, run as a process of its own.

    The process leads a group, so that what it started can be ended with it.
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
        """Start it; its output goes to `log_file`."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as output:
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
        """Run in the child: die with the parent, and let others go first where asked to."""
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        os.nice(self.niceness)

    def check(self, echo: Callable[[str], None]) -> None:
        """Restart it if it has died, after a pause that grows with its crashes."""
        now = time.monotonic()
        if self.process is None:
            if now >= self.next_start:
                self.start()
                echo(f"{self.name} is starting again (process {self.process.pid})")  # type: ignore[attr-defined]
            return
        code = self.process.poll()
        if code is None:
            return
        self.kill_group()
        self.crashes = 1 if now - self.started > _STEADY_SECONDS else self.crashes + 1
        pause = _BACKOFF_SECONDS[min(self.crashes, len(_BACKOFF_SECONDS)) - 1]
        self.process = None
        self.next_start = now + pause
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        echo(
            f"{self.name} stopped with {how}; restarting in {pause:.0f} s. Its log: {self.log_file}"
        )

    def kill_group(self) -> None:
        """End what is left of the group."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to stop."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self, deadline: float) -> bool:
        """Wait for its end until `deadline` (monotonic); kill it then. True if it ended itself."""
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
    """Stop the children, all at once; kill those that take longer than STOP_SECONDS."""
    for child in children:
        child.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for child in children:
        if not child.wait(deadline):
            echo(f"{child.name} did not stop in {STOP_SECONDS:.0f} s and was killed")
