"""torchrun's processes on this machine: its command, its environment, and what it prints."""

import ctypes
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final

from learner.processes.machines import Machines, without_launcher

_POLL_SECONDS: Final = 0.2
_STOP_SECONDS: Final = 20.0
_ON_LOOPBACK: Final = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
_PR_SET_PDEATHSIG: Final = 1


class ProcessesFailed(RuntimeError):
    """The training processes failed before they wrote a candidate; the log has their output."""


@dataclass(frozen=True, slots=True)
class Torchrun:
    """How torchrun starts this machine's part of the training processes.

    Attributes:
        machines: The machines that train together.
        processes: Number of processes on this machine.
        threads: Number of CPU threads of each process.
        join_seconds: Seconds that torchrun waits for the other machines.

    """

    machines: Machines
    processes: int
    threads: int
    join_seconds: float

    def command(self) -> list[str]:
        """Return the command, to which the module and its arguments are added."""
        command = [sys.executable, "-m", "torch.distributed.run"]
        command += ["--nproc-per-node", str(self.processes)]
        machines = self.machines
        if machines.count == 1:
            port = str(_free_port())
            return [*command, "--master-addr", "127.0.0.1", "--master-port", port]
        waiting = f"join_timeout={math.ceil(self.join_seconds)}"
        return [
            *command,
            *("--nnodes", str(machines.count), "--max-restarts", "0"),
            *("--rdzv-backend", "c10d", "--rdzv-id", "plaudit"),
            *("--rdzv-endpoint", machines.rendezvous),
            *("--rdzv-conf", f"is_host={int(machines.leads)},{waiting}"),
            *("--local-addr", _own_address(machines)),
        ]

    def environment(self) -> dict[str, str]:
        """Return the environment of torchrun and of the processes that it starts."""
        given = without_launcher(os.environ) | {"OMP_NUM_THREADS": str(self.threads)}
        return _ON_LOOPBACK | given if self.machines.count == 1 else given

    def run(
        self, arguments: Sequence[str], raise_if_stopped: Callable[[], None] = lambda: None
    ) -> Generator[str, None, None]:
        """Run a module in the processes, and yield the lines that they print.

        Closing the generator stops the processes.

        Args:
            arguments: The module and its arguments.
            raise_if_stopped: Called again and again; an exception from it stops the processes.

        Raises:
            ProcessesFailed: A process ended with another exit status than 0.

        """
        process = subprocess.Popen(
            [*self.command(), "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment(),
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        try:
            yield from _read_lines(process, raise_if_stopped)
            if process.wait() != 0:
                raise ProcessesFailed(
                    f"training in {self.processes} processes of this machine failed with exit "
                    f"status {process.poll()}; see their output above"
                )
        finally:
            _stop(process)


def end_with_parent() -> None:
    """Let the kernel terminate this process when its parent dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _own_address(machines: Machines) -> str:
    """Return the address of this machine in the network of the rendezvous."""
    host, port = machines.address
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as unsent:
        unsent.connect(address)  # chooses the interface, and sends nothing
        return str(unsent.getsockname()[0])


def _read_lines(
    process: "subprocess.Popen[str]", raise_if_stopped: Callable[[], None]
) -> Iterator[str]:
    """Yield the lines that a process prints, and call `raise_if_stopped` while waiting for them."""
    queue: SimpleQueue[str] = SimpleQueue()
    output = process.stdout
    assert output is not None

    def read() -> None:
        for line in output:
            queue.put(line)
        queue.put("")

    threading.Thread(target=read, daemon=True).start()
    while True:
        raise_if_stopped()
        try:
            line = queue.get(timeout=_POLL_SECONDS)
        except Empty:
            continue
        if not line:
            return
        yield line


def _stop(process: "subprocess.Popen[str]") -> None:
    """Stop torchrun and the processes that it started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
