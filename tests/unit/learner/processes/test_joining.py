"""A machine joins each training run of the one that leads, until it is stopped."""

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from learner.errors import MachinesUnusable
from learner.processes import joining
from learner.processes.joining import join
from learner.processes.machines import Machines
from learner.processes.torchrun import ProcessesFailed, Torchrun
from learner.settings import LearnerSettings

SETTINGS = LearnerSettings(processes=2, threads=1, join_seconds=0.1)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_PAUSE_SECONDS", 0.01)


def test_a_run_that_failed_is_joined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, runs = threading.Event(), list[list[str]]()

    def run(_: Torchrun, arguments: Sequence[str], check: Callable[[], None]) -> Iterator[str]:
        runs.append(list(arguments))
        yield "a line\n"
        if len(runs) < 3:
            raise ProcessesFailed("another machine was lost")
        stop.set()
        check()

    monkeypatch.setattr(Torchrun, "run", run)
    with socket.create_server(("127.0.0.1", 0)) as leading:
        machines = Machines(2, f"127.0.0.1:{leading.getsockname()[1]}", leads=False)
        join(Path("home"), SETTINGS, machines, stop)
    assert runs == 3 * [["learner.cycle.policy_training", "home"]]


def test_it_waits_while_the_leading_machine_trains_nothing() -> None:
    stop = threading.Event()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        machines = Machines(2, f"127.0.0.1:{unused.getsockname()[1]}", leads=False)
        threading.Timer(0.5, stop.set).start()
        join(Path("home"), SETTINGS, machines, stop)


def test_a_name_that_stays_unknown_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    with pytest.raises(MachinesUnusable, match="correct PLAUDIT_LEARNER_RENDEZVOUS"):
        join(Path("home"), SETTINGS, Machines(2, "nowhere:1", leads=False), threading.Event())
