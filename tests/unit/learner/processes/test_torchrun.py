"""torchrun's command and environment, and what becomes of its lines and its exit status."""

from collections.abc import Callable

import pytest

from learner.errors import Interrupted
from learner.processes.machines import Machines
from learner.processes.torchrun import ProcessesFailed, Torchrun

LEADING = Machines(4, "127.0.0.1:29400", leads=True)
Scripted = Callable[[Machines, str], Torchrun]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """Return a function that lets a shell script take the place of torchrun."""

    def make(machines: Machines, script: str) -> Torchrun:
        monkeypatch.setattr(Torchrun, "command", lambda _: ["sh", "-c", script])
        return Torchrun(machines, 2, 1, 60.0)

    return make


def test_the_leading_machine_hosts_the_rendezvous_and_the_others_join_it() -> None:
    leads = Torchrun(LEADING, 2, 1, 60.0).command()
    joins = Torchrun(Machines(4, "127.0.0.1:29400", leads=False), 2, 1, 60.0).command()
    assert "is_host=1,join_timeout=60" in leads
    assert "is_host=0,join_timeout=60" in joins
    for command in (leads, joins):
        assert command[command.index("--nnodes") + 1] == "4"
        assert command[command.index("--rdzv-endpoint") + 1] == "127.0.0.1:29400"
        assert command[command.index("--local-addr") + 1] == "127.0.0.1"


def test_one_machine_stays_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("PET_NNODES", "4")
    alone = Torchrun(Machines(), 2, 3, 60.0)
    assert "--nnodes" not in alone.command()
    assert alone.environment()["GLOO_SOCKET_IFNAME"] == "lo"
    assert alone.environment()["OMP_NUM_THREADS"] == "3"
    assert "PET_NNODES" not in alone.environment()
    assert "GLOO_SOCKET_IFNAME" not in Torchrun(LEADING, 2, 3, 60.0).environment()


def test_lines_are_passed_on_and_a_failure_is_an_error(scripted: Scripted) -> None:
    lines = scripted(LEADING, "echo one; echo two; exit 3").run(["module"])
    assert [next(lines), next(lines)] == ["one\n", "two\n"]
    with pytest.raises(ProcessesFailed, match="exit status 3"):
        next(lines)


def test_a_stop_ends_the_processes(scripted: Scripted) -> None:
    def stop() -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        list(scripted(LEADING, "sleep 60").run(["module"], stop))
