"""The fork server that vLLM's engine is forked from."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from serving.engine.forking import can_fork

# Prints its process id and that of the fork server, then what a process that it starts says.
PROGRAM = """
import colorsys, os, sys, time
from serving.engine.forking import EngineContext, start_fork_server

def report(line):
    import multiprocessing
    known = [name in sys.modules for name in ("colorsys", "tabnanny", "pyclbr")]
    print(line, os.environ["LATER"], multiprocessing.parent_process() is not None, *known)
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    start_fork_server("tabnanny")
    os.environ["LATER"] = "set after the fork"
    import pyclbr
    process = EngineContext().Process(target=report, args=("started:",))
    process.start()
    {end}
"""


def start(tmp_path: Path, end: str) -> tuple[subprocess.Popen[str], str, psutil.Process]:
    """Run the program; return it, what its forked process says, and that process."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.replace("{end}", end))
    program = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert program.stdout is not None
    said = program.stdout.readline()
    return program, said, psutil.Process(int(program.stdout.readline()))


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_process_has_the_imports_of_the_fork_and_the_environment_of_now(tmp_path: Path) -> None:
    program, said, forked = start(tmp_path, "time.sleep(60)")
    assert said == "started: set after the fork True True True False\n"
    fork_server = forked.parent()
    assert fork_server is not None
    assert fork_server.parent() == psutil.Process(program.pid)
    program.send_signal(signal.SIGKILL)
    program.wait()
    wait_until(lambda: has_ended(fork_server))
    forked.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_is_known_how_a_process_has_ended(tmp_path: Path, number: int) -> None:
    program, _, forked = start(tmp_path, "process.join(); print(process.exitcode)")
    forked.send_signal(number)
    out, _ = program.communicate(timeout=20)
    assert out == f"-{int(number)}\n"
    assert program.returncode == 0


def test_a_fork_has_no_library_that_is_to_be_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = next(
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if ".so" in line
    )
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    assert can_fork()
    monkeypatch.setenv("LD_PRELOAD", mapped)
    assert can_fork()
    monkeypatch.setenv("LD_PRELOAD", f"{mapped}:/usr/lib/libother.so")
    assert not can_fork()
