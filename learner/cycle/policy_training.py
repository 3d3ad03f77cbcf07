"""PPO in a learning cycle: from the live policy to a candidate, in one process or in several.

Several are started by torchrun for this stage alone, each with a GPU of its own where there are
GPUs. They read the home's ledger and the cycle's folder; the first of them writes the candidate.
"""

import ctypes
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

import torch
from transformers import PreTrainedModel

from feedback.ledger.store import Ledger
from learner.cycle.materials import Materials, gather
from learner.cycle.reward_models import RewardModels
from learner.cycle.state import CycleState, cycle_folder
from learner.models.checkpoint import save_adapter, save_model
from learner.models.loading import load_variant
from learner.models.ranks import Ranks, join_ranks
from learner.ppo.critic import new_critic
from learner.ppo.off_policy import off_policy_answers
from learner.ppo.steps import PPOInputs
from learner.ppo.trainer import Iteration, run_ppo
from learner.settings import LearnerSettings
from protos.checkpoints.shared_registry import open_registry

_POLL_SECONDS: Final = 0.2
_STOP_SECONDS: Final = 20.0
_TOLD: Final = "iteration "  # begins a line of figures; libraries may write others
_ENVIRONMENT: Final = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
_PR_SET_PDEATHSIG: Final = 1

logger = logging.getLogger(__name__)


class ProcessesFailed(RuntimeError):
    """The processes that trained the policy ended without a candidate; the log says why."""


@dataclass(frozen=True, slots=True)
class PolicyTraining:
    """The policies of one cycle, and how the candidate is made."""

    home: Path
    state: CycleState
    materials: Materials
    ledger: Ledger

    @property
    def folder(self) -> Path:
        """Of the cycle."""
        return cycle_folder(self.home, self.state.number)

    @property
    def candidate(self) -> Path:
        """Folder that the candidate is written to."""
        return self.folder / "candidate"

    def reward_models(self) -> RewardModels:
        """Return those of the cycle."""
        return RewardModels(self.folder, self.materials, self._seed)

    def live(self) -> PreTrainedModel:
        """Load the policy that the cycle starts from.

        Raises:
            CheckpointInvalid: It is absent or altered.

        """
        registry = open_registry(self.home)
        registry.verify(self.state.parent)
        return self.load(registry.path(self.state.parent))

    def load(self, folder: Path) -> PreTrainedModel:
        """Load the live policy or the candidate; both may be adapters on the same weights."""
        registry = open_registry(self.home)
        base = int(registry.manifest(self.state.parent).adapter_base) or self.state.parent
        registry.verify(base)
        return load_variant(self.materials.reference, folder, registry.path(base))

    def train(
        self,
        on_iteration: Callable[[Iteration], None],
        check: Callable[[], None],
        ranks: Ranks | None = None,
    ) -> None:
        """Train the live policy, and write the candidate; resumes what was under way.

        Args:
            on_iteration: Told the figures of each iteration.
            check: Called before every step; what it raises stops the training.
            ranks: The processes that train together, if this is one of several.

        """
        materials, settings = self.materials, self.materials.settings
        reward = self.reward_models().load("reward.pt")
        policy = materials.to_train(self._seed(6), self.live())
        trained = run_ppo(
            PPOInputs(
                policy=policy,
                critic=new_critic(policy, reward, settings.ppo),
                reference=materials.reference,
                reward=reward,
                sampler=materials.sampler,
                prompts=materials.prompts,
                text=materials.text,
                text_by_reference=materials.text_by_reference,
                live=off_policy_answers(
                    self.ledger.effective_events(upto_seq=self.state.upto_seq),
                    version=self.state.parent,
                    ppo=settings.ppo,
                    reward=settings.reward,
                ),
            ),
            settings.ppo,
            seed=self._seed(4),
            state=self.folder / "ppo",
            dtype=settings.dtype,
            on_iteration=on_iteration,
            check=check,
            ranks=ranks,
        )
        if ranks is not None and ranks.rank > 0:
            return
        if settings.tune == "lora":
            save_adapter(trained, self.candidate)
        else:
            save_model(trained, materials.tokenizer, self.candidate)

    def train_in_processes(
        self,
        count: int,
        on_iteration: Callable[[Iteration], None],
        check: Callable[[], None],
    ) -> None:
        """Do what `train` does in `count` processes.

        Raises:
            ProcessesFailed: They ended without a candidate.

        """
        settings = self.materials.settings.model_copy(update={"compiled": False})  # not sharded
        threads = settings.threads or max(1, torch.get_num_threads() // count)
        command = [*_torchrun(count), "-m", "learner.cycle.policy_training", str(self.home)]
        command += [self.state.model_dump_json(), settings.model_dump_json()]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env=_ENVIRONMENT | os.environ | {"OMP_NUM_THREADS": str(threads)},
            start_new_session=True,
            preexec_fn=_set_parent_death_signal,
        )
        try:
            for line in _lines(process, check):
                if line.startswith(_TOLD):
                    on_iteration(Iteration(**json.loads(line.removeprefix(_TOLD))))
                else:
                    logger.info("%s", line.rstrip())
            if process.wait() != 0:
                raise ProcessesFailed(f"{count} processes trained, exit status {process.poll()}")
        finally:
            _end(process)

    def _seed(self, salt: int) -> int:
        return self.state.seed(self.materials.settings.seed, salt)


def _set_parent_death_signal() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _torchrun(count: int) -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nproc-per-node", str(count)),
        *("--master-addr", "127.0.0.1", "--master-port", str(port)),
    ]


def _lines(process: "subprocess.Popen[str]", check: Callable[[], None]) -> Iterator[str]:
    """Yield the lines that a process writes; calls `check` meanwhile."""
    queue: SimpleQueue[str] = SimpleQueue()
    output = process.stdout
    assert output is not None

    def read() -> None:
        for line in output:
            queue.put(line)
        queue.put("")

    threading.Thread(target=read, daemon=True).start()
    while True:
        check()
        try:
            line = queue.get(timeout=_POLL_SECONDS)
        except Empty:
            continue
        if not line:
            return
        yield line


def _end(process: "subprocess.Popen[str]") -> None:
    """End torchrun and all that it started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main(home: Path, state: CycleState, settings: LearnerSettings) -> None:
    """Be one of the processes: train, and write each iteration's figures as a line of JSON."""
    ledger = Ledger(home / "ledger.db")
    with join_ranks() as ranks:
        materials = gather(home, settings, ledger, state.upto_seq)

        def told(iteration: Iteration) -> None:
            if ranks.rank == 0:
                sys.stdout.write(_TOLD + json.dumps(asdict(iteration)) + "\n")
                sys.stdout.flush()

        try:
            PolicyTraining(home, state, materials, ledger).train(told, lambda: None, ranks)
        finally:
            materials.close()
            ledger.close()


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        CycleState.model_validate_json(sys.argv[2]),
        LearnerSettings.model_validate_json(sys.argv[3]),
    )
