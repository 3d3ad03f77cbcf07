"""Child processes: restarts, signals, and their end."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil

from deploy.local.processes import Child, stop_all


def child(tmp_path: Path, code: str) -> Child:
    return Child("part", [sys.executable, "-c", code], tmp_path / "part.log")


def test_a_crashed_child_is_restarted_with_a_message(tmp_path: Path) -> None:
    process = child(tmp_path, "import time; print('up', flush=True); time.sleep(60)")
    lines: list[str] = []
    process.start()
    assert process.process is not None
    first = process.process
    first.kill()
    first.wait()
    deadline = time.monotonic() + 10
    while (process.process is None or process.process is first) and time.monotonic() < deadline:
        process.check(lines.append)
    assert process.process is not None
    assert process.process is not first
    assert "signal 9" in lines[0]
    assert "Restarted part" in lines[1]
    stop_all([process], lines.append)
    assert process.process.poll() is not None


SIGNALLED_TWICE = """
import signal
from deploy.local.processes import stop_on_signals
stop = stop_on_signals()
with stop._cond:  # as it is while the main thread waits for it, or sets it
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
print(stop.wait(10))
"""


def test_signals_are_handled_during_a_call_on_the_event() -> None:
    done = subprocess.run([sys.executable, "-c", SIGNALLED_TWICE], capture_output=True, timeout=30)
    assert done.stdout == b"True\n"


def test_children_die_with_their_parent(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from deploy.local.processes import Child\n"
        "c = Child('part', ['sleep', '60'], Path(sys.argv[1]))\n"
        "c.start(); print(c.process.pid, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while _alive(pid):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_log_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    process = child(tmp_path, "pass")
    old = os.umask(0)
    try:
        process.start()
    finally:
        os.umask(old)
    stop_all([process], [].append)
    assert stat.S_IMODE((tmp_path / "part.log").stat().st_mode) == 0o600
