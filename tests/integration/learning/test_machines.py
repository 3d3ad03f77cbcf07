"""Two machines, each with two processes, train like one process, and survive the loss of one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load

from learner.cycle.state import latest_cycle
from tests.support.learner_cycles import SETTINGS, cycle_report, environment_of, weights
from tests.support.learning import cycle_ended, make_home
from tests.support.servers import free_port

pytestmark = pytest.mark.timeout(600)


def wait_for(reached: Callable[[], bool], *processes: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 250
    while not reached():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)


@contextmanager
def machine(home: Path, log: Path, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `plaudit learn` within this context."""
    command = [sys.executable, "-m", "deploy.commands.main", "learn", "--home", str(home)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--dtype", "float32", "--metrics-port", "0", *options],
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def test_two_machines_train_like_one_process_though_one_is_lost(
    finished_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, other = make_home(tmp_path / "home"), tmp_path / "other"
    shared = home / "learner"
    for folder in (shared, other):
        folder.mkdir()
    for name in ("learner", "registry", "secret.json"):  # all that the machines share
        (other / name).symlink_to(home / name)
    settings = SETTINGS.model_copy(
        update={"processes": 2, "nodes": 2, "rendezvous": f"127.0.0.1:{free_port()}"}
    )
    given = {k: v for k, v in environment_of(settings).items() if not k.endswith("METRICS_PORT")}
    names = ("processes", "nodes", "rendezvous")
    given |= {f"PLAUDIT_LEARNER_{n.upper()}": str(getattr(settings, n)) for n in names}
    for name, value in {**given, "GLOO_SOCKET_IFNAME": "lo"}.items():
        monkeypatch.setenv(name, value)
    logs = tmp_path / "leads.log", tmp_path / "joins.log"
    with machine(home, logs[0]) as leading, machine(other, logs[1], "--join") as joining:
        wait_for((shared / "cycles" / "001" / "ppo").is_dir, leading, joining)
        (agent,) = psutil.Process(joining.pid).children()
        os.kill(agent.pid, signal.SIGKILL)
        wait_for(cycle_ended(home), leading, joining)
    state = latest_cycle(home)
    assert state is not None
    assert state.outcome == "published", state.reasons
    assert logs[1].read_text().count("joining a training run in 2 processes") >= 2
    assert logs[0].read_text().count("joined: 4 processes train the policy") == 2
    alone, together = load(weights(finished_home)), load(weights(home))
    for name, value in together.items():
        torch.testing.assert_close(value, alone[name], atol=1e-4, rtol=1e-3)
    for found, expected in zip(
        cycle_report(home).iterations, cycle_report(finished_home).iterations, strict=True
    ):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
