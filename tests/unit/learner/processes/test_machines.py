"""The machines that train together come from settings or from a launcher's variables."""

import pytest

from learner.errors import MachinesUnusable
from learner.processes.machines import Machines, find_machines, without_launcher
from learner.settings import LearnerSettings

SET = LearnerSettings(nodes=4, rendezvous="learner-0:29400")


def test_one_machine_without_settings_and_launcher() -> None:
    assert find_machines(LearnerSettings(), {}) == Machines(1, "", leads=True)


def test_settings_describe_the_machine_that_leads_and_those_that_join() -> None:
    assert find_machines(SET, {}) == Machines(4, "learner-0:29400", leads=True)
    assert find_machines(SET, {}, join=True) == Machines(4, "learner-0:29400", leads=False)
    assert find_machines(SET, {}).address == ("learner-0", 29400)
    assert Machines(2, "[fd00::1]:5").address == ("fd00::1", 5)
    assert Machines(2, "node1").address == ("node1", 29400)


@pytest.mark.parametrize(
    "environment",
    [
        # Kubeflow Trainer; a JobSet or a script of one's own; Slurm; torchrun; a PyTorchJob.
        {"PET_NNODES": "4", "PET_NODE_RANK": "{}", "PET_MASTER_ADDR": "m", "PET_MASTER_PORT": "9"},
        {"NNODES": "4", "JOB_COMPLETION_INDEX": "{}", "MASTER_ADDR": "m", "MASTER_PORT": "9"},
        {"SLURM_NNODES": "4", "SLURM_NODEID": "{}", "MASTER_ADDR": "m", "MASTER_PORT": "9"},
        {
            **{"GROUP_WORLD_SIZE": "4", "GROUP_RANK": "{}", "LOCAL_WORLD_SIZE": "1"},
            **{"WORLD_SIZE": "4", "RANK": "{}", "MASTER_ADDR": "m", "MASTER_PORT": "9"},
        },
        {"WORLD_SIZE": "4", "RANK": "{}", "MASTER_ADDR": "m", "MASTER_PORT": "9"},
    ],
)
@pytest.mark.parametrize("rank", [0, 3])
def test_a_launcher_describes_the_machines(environment: dict[str, str], rank: int) -> None:
    given = {name: value.format(rank) for name, value in environment.items()}
    assert find_machines(LearnerSettings(), given) == Machines(4, "m:9", leads=rank == 0)


def test_a_job_of_slurm_that_names_no_address_is_one_machine() -> None:
    assert find_machines(LearnerSettings(), {"SLURM_NNODES": "4"}) == Machines()


@pytest.mark.parametrize(
    ("settings", "environment", "join", "message"),
    [
        (LearnerSettings(nodes=2), {}, False, "set PLAUDIT_LEARNER_RENDEZVOUS"),
        (LearnerSettings(), {}, True, "set PLAUDIT_LEARNER_RENDEZVOUS"),
        (LearnerSettings(rendezvous="m:9"), {}, True, "set PLAUDIT_LEARNER_NODES"),
        (LearnerSettings(nodes=2, rendezvous="m:nine"), {}, False, "is not HOST:PORT"),
        (LearnerSettings(nodes=2, rendezvous=":9"), {}, False, "is not HOST:PORT"),
        (SET, {"LOCAL_WORLD_SIZE": "8"}, False, "let it start one"),
        (LearnerSettings(), {"MASTER_ADDR": "m", "PET_NNODES": "1:4"}, False, "PET_NNODES"),
    ],
)
def test_an_incomplete_description_says_what_to_set(
    settings: LearnerSettings, environment: dict[str, str], join: bool, message: str
) -> None:
    with pytest.raises(MachinesUnusable, match=message):
        find_machines(settings, environment, join=join)


def test_torchrun_takes_nothing_from_the_launcher_that_started_the_learner() -> None:
    given = {
        "PET_NNODES": "4",
        "RANK": "1",
        "LOCAL_RANK": "0",
        "MASTER_PORT": "9",
        "WORLD_SIZE": "4",
    }
    assert without_launcher({**given, "TORCHELASTIC_RUN_ID": "x", "PATH": "/bin"}) == {
        "PATH": "/bin"
    }
