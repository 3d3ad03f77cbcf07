"""Start vLLM's engine by forking a process that has imported vLLM, as `multiprocessing` can.

On a CPU vLLM 0.32 starts its engine as a new Python, which imports everything once more: half of
the start-up time. Forking the server itself would copy its threads' locks and its sockets, so a
process is forked early, which has neither, and the engine is forked from that one: the fork server
of `multiprocessing`, with this process's imports.
"""

import ctypes
import os
import signal
import socket
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, ClassVar

_PR_SET_PDEATHSIG = 1


class EngineProcess(ForkServerProcess):
    """A process with the environment of the one that starts it, not of the fork server."""

    def start(self) -> None:
        """Start the process."""
        self._environment = dict(os.environ)
        super().start()

    def run(self) -> None:
        """Run the target, in the process."""
        os.environ.clear()
        os.environ.update(self._environment)
        super().run()


class EngineContext(ForkServerContext):
    """Starts processes from the fork server."""

    Process: ClassVar[Any] = EngineProcess


def end_with_parent() -> None:
    """Make the kernel kill this process with the one that started it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start_fork_server(*imports: str) -> None:
    """Fork this process into the fork server of `multiprocessing`, which ends with this process.

    Call it after the imports that are wanted there, and before threads and sockets are made.

    Args:
        imports: Modules that the fork server imports by itself, while this process goes on.

    """
    address = connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        os.chmod(address, 0o600)
        listener.listen()
        alive, keep_alive = os.pipe()
        if (number := os.fork()) == 0:
            try:
                os.close(keep_alive)
                end_with_parent()
                forkserver.main(listener.fileno(), alive, imports)
            finally:
                os._exit(0)
        os.close(alive)
    server: Any = forkserver._forkserver
    server._forkserver_address = address
    server._forkserver_alive_fd = keep_alive
    server._forkserver_pid = number


def can_fork() -> bool:
    """Return whether a forked process would have every library that LD_PRELOAD asks for.

    vLLM sets the variable for its engine, which takes effect in a new process alone.
    """
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    wanted = os.environ.get("LD_PRELOAD", "").replace(":", " ").split()
    return all(str(Path(library).resolve()) in mapped for library in wanted)
