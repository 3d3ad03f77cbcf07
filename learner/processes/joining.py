"""A machine that joins the training runs of another one, which leads."""

import logging
import os
import socket
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from learner.errors import Interrupted, MachinesUnusable
from learner.processes.machines import Machines
from learner.processes.torchrun import ProcessesFailed, Torchrun
from learner.settings import LearnerSettings

TRAINING_MODULE: Final = "learner.cycle.policy_training"
_CONNECT_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 1.0

logger = logging.getLogger(__name__)


def join(home: Path, settings: LearnerSettings, machines: Machines, stop: threading.Event) -> None:
    """Take part in every training run of the machine that leads, until `stop` is set.

    A run that fails, here or on another machine, is joined again: the leading machine starts it
    again and continues it from its saved state.

    Args:
        home: Home folder, of which `learner` is shared with the machine that leads.
        settings: Settings of the learner.
        machines: The machines that train together.
        stop: Set by the caller to leave.

    Raises:
        MachinesUnusable: The name of the machine that leads cannot be resolved.

    """
    torchrun = Torchrun(machines, *_share(settings), settings.join_seconds)
    logger.info("waiting for training runs of the learner at %s", machines.rendezvous)

    def raise_if_stopped() -> None:
        if stop.is_set():
            raise Interrupted

    while _wait_for_run(machines, settings.join_seconds, stop):
        logger.info("joining a training run in %d processes", torchrun.processes)
        try:
            with closing(torchrun.run([TRAINING_MODULE, str(home)], raise_if_stopped)) as lines:
                for line in lines:
                    logger.info("%s", line.rstrip())
        except Interrupted:
            return
        except ProcessesFailed as error:
            logger.warning("%s; joining again when the leading machine continues", error)


def process_count(settings: LearnerSettings) -> int:
    """Return the number of training processes of this machine."""
    if settings.processes:
        return settings.processes
    import torch

    return max(1, torch.cuda.device_count())


def _share(settings: LearnerSettings) -> tuple[int, int]:
    """Return the number of processes of this machine, and of threads of each."""
    count = process_count(settings)
    return count, settings.threads or max(1, len(os.sched_getaffinity(0)) // count)


def _wait_for_run(machines: Machines, resolve_seconds: float, stop: threading.Event) -> bool:
    """Wait until the leading machine has opened a rendezvous; return False if `stop` is set.

    Raises:
        MachinesUnusable: The name of the machine could not be resolved for `resolve_seconds`.

    """
    resolved = time.monotonic()
    while not stop.wait(_PAUSE_SECONDS):
        try:
            with socket.create_connection(machines.address, _CONNECT_SECONDS):
                return True
        except socket.gaierror as error:
            if time.monotonic() - resolved > resolve_seconds:
                raise MachinesUnusable(
                    f"the name in {machines.rendezvous} cannot be resolved ({error}); correct "
                    "PLAUDIT_LEARNER_RENDEZVOUS, or the network's names"
                ) from error
        except OSError:  # no run at present: the leading machine waits for votes
            resolved = time.monotonic()
    return False
