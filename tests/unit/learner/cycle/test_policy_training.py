"""How PPO in several processes goes on, or ends, when processes and machines fail."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from learner.cycle.policy_training import PolicyTraining, _check_shared
from learner.cycle.state import CycleState
from learner.errors import MachinesUnusable
from learner.models.ranks import Ranks
from learner.ppo.trainer import Iteration
from learner.processes.machines import Machines
from learner.processes.torchrun import ProcessesFailed, Torchrun
from learner.settings import LearnerSettings

LEADING = Torchrun(Machines(4, "node0:29400"), 2, 1, 60.0)
ALONE = Torchrun(Machines(), 2, 1, 60.0)
JOINED = "joined: 8 processes train the policy\n"
FAILED = "failed"
Runs = list[list[str]]


def iteration(number: int) -> Iteration:
    return Iteration(number, *(0.0 for _ in fields(Iteration)[1:]))


def line_of(number: int) -> str:
    return f"iteration {json.dumps(asdict(iteration(number)))}\n"


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[[Torchrun, Runs], list[int]]:
    """Return a function that trains with these lines of each run, and returns the iterations."""

    def train(torchrun: Torchrun, runs: Runs) -> list[int]:
        remaining, found = iter(runs), list[int]()

        def run(_: Torchrun, arguments: Sequence[str], check: Any) -> Iterator[str]:
            for line in next(remaining):
                if line == FAILED:
                    raise ProcessesFailed("a process was killed")
                yield line

        monkeypatch.setattr(Torchrun, "run", run)
        inputs: Any = SimpleNamespace(settings=LearnerSettings())
        state = CycleState(number=1, parent=1, after_seq=0, upto_seq=1, events=1)
        training = PolicyTraining(Path("home"), state, inputs, None)
        training.train_in_processes(torchrun, lambda i: found.append(i.number), lambda: None)
        assert next(remaining, None) is None, "not all runs were needed"
        return found

    return train


def test_training_goes_on_after_a_machine_was_lost(train: Any) -> None:
    lost = [[JOINED, line_of(number), FAILED] for number in (1, 2, 3, 4)]
    assert train(LEADING, [*lost, [JOINED, FAILED], [JOINED, line_of(5)]]) == [1, 2, 3, 4, 5]


def test_machines_that_fail_three_times_without_an_iteration_are_given_up(train: Any) -> None:
    with pytest.raises(ProcessesFailed):
        train(LEADING, 3 * [[JOINED, FAILED]])


def test_one_machine_is_not_tried_again(train: Any) -> None:
    with pytest.raises(ProcessesFailed):
        train(ALONE, [[JOINED, line_of(1), FAILED]])


def test_machines_that_do_not_join_are_an_error_that_says_what_to_do(train: Any) -> None:
    with pytest.raises(MachinesUnusable, match="'plaudit learn --join' on each of the others"):
        train(LEADING, [["a line of torchrun\n", FAILED]])


def test_a_folder_that_is_not_shared_is_an_error_that_names_it(train: Any) -> None:
    with pytest.raises(MachinesUnusable, match="4 of 8 training processes do not see"):
        train(LEADING, [[JOINED, "problem: 4 of 8 training processes do not see it\n", FAILED]])


def test_the_cycle_s_folder_is_checked_and_left_as_it_was(tmp_path: Path) -> None:
    _check_shared(tmp_path, Ranks())
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_sees_another_folder_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ranks, "total", lambda _, value: float(value) + 3)
    with pytest.raises(MachinesUnusable, match="3 of 1 training processes do not see"):
        _check_shared(tmp_path, Ranks())
