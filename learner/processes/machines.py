"""The machines that train together, from settings or from the variables of a launcher."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from learner.errors import MachinesUnusable
from learner.settings import LearnerSettings

_PORT: Final = 29400  # torchrun's own default
_ADDRESSES: Final = (("PET_MASTER_ADDR", "PET_MASTER_PORT"), ("MASTER_ADDR", "MASTER_PORT"))
# Of torchrun's arguments (Kubeflow), torchrun's processes and Slurm. WORLD_SIZE and RANK count
# processes, of which a launcher may start one a machine only.
_NODES: Final = ("PET_NNODES", "GROUP_WORLD_SIZE", "NNODES", "SLURM_NNODES", "WORLD_SIZE")
_RANKS: Final = (
    *("PET_NODE_RANK", "GROUP_RANK", "NODE_RANK", "SLURM_NODEID"),
    *("JOB_COMPLETION_INDEX", "RANK"),
)
_OF_TORCHRUN: Final = re.compile(
    r"(PET|TORCHELASTIC)_\w+|MASTER_(ADDR|PORT)|((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|ROLE_NAME"
)


@dataclass(frozen=True, slots=True)
class Machines:
    """The machines that train together, as seen by one of them.

    Attributes:
        count: Number of machines.
        rendezvous: HOST:PORT at which the leading machine waits for the others; empty for one.
        leads: Whether this machine leads: it runs the learner service.

    """

    count: int = 1
    rendezvous: str = ""
    leads: bool = True

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the rendezvous."""
        parts = urlsplit(f"//{self.rendezvous}")
        return parts.hostname or "", parts.port or _PORT


def find_machines(
    settings: LearnerSettings, environment: Mapping[str, str], *, join: bool = False
) -> Machines:
    """Return the machines that settings describe, or else a launcher's variables.

    Args:
        settings: Settings of the learner.
        environment: Environment variables.
        join: Whether this machine joins another one that leads, whatever a launcher says.

    Raises:
        MachinesUnusable: The description is incomplete or contradicts itself.

    """
    rendezvous = settings.rendezvous or _launcher_address(environment)
    count = settings.nodes
    if not count:
        count = _number(environment, _NODES, 1) if rendezvous else 1
    if count == 1 and not join:
        return Machines()
    if not rendezvous:
        raise MachinesUnusable(
            "several machines are to train together, but nothing says where they meet; set "
            "PLAUDIT_LEARNER_RENDEZVOUS on all of them to HOST:PORT of the one that leads"
        )
    if count == 1:
        raise MachinesUnusable(
            "this machine is to join others, but nothing says how many; set PLAUDIT_LEARNER_NODES "
            "on all of them to the number of machines, with the one that leads"
        )
    if _number(environment, ("LOCAL_WORLD_SIZE",), 1) > 1:
        raise MachinesUnusable(
            "a launcher started several learners on this machine; let it start one, which starts "
            "a process for each GPU itself"
        )
    rank = _number(environment, _RANKS, 0)
    machines = Machines(count, rendezvous, leads=rank == 0 and not join)
    _check_address(machines)
    return machines


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the variables that torchrun would take from a launcher."""
    return {k: v for k, v in environment.items() if not _OF_TORCHRUN.fullmatch(k)}


def _check_address(machines: Machines) -> None:
    try:
        host, _ = machines.address
    except ValueError:  # the port is no number
        host = ""
    if not host:
        raise MachinesUnusable(
            f"'{machines.rendezvous}' is not HOST:PORT; correct PLAUDIT_LEARNER_RENDEZVOUS"
        )


def _launcher_address(environment: Mapping[str, str]) -> str:
    for host, port in _ADDRESSES:
        if environment.get(host):
            return f"{environment[host]}:{environment.get(port) or _PORT}"
    return ""


def _number(environment: Mapping[str, str], names: Sequence[str], default: int) -> int:
    """Return the number of the first variable that is set."""
    name = next((name for name in names if environment.get(name)), None)
    if name is None:
        return default
    if not environment[name].isdecimal():
        raise MachinesUnusable(
            f"the launcher's variable {name} is '{environment[name]}', not a number; set "
            "PLAUDIT_LEARNER_NODES, and start 'plaudit learn --join' on all machines but one"
        )
    return int(environment[name])
