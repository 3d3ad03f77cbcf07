"""PPO in a learning cycle: trains the live policy into a candidate, in one or several processes.

Several processes are started by torchrun for this stage only, each with its own GPU if there are
GPUs. They read the ledger and the cycle's folder; the process of rank 0 writes the candidate.
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
from learner.cycle.inputs import CycleInputs, load_inputs
from learner.cycle.reward_models import RewardModels
from learner.cycle.state import CycleState, SeedSalt, cycle_folder
from learner.models.loading import load_variant
from learner.models.ranks import Ranks, join_ranks
from learner.models.saving import save_adapter, save_model
from learner.ppo.critic import new_critic
from learner.ppo.off_policy import off_policy_answers
from learner.ppo.steps import PPOInputs
from learner.ppo.trainer import Iteration, run_ppo
from learner.settings import LearnerSettings
from protos.checkpoints.shared_registry import open_registry

_POLL_SECONDS: Final = 0.2
_STOP_SECONDS: Final = 20.0
_ITERATION_PREFIX: Final = "iteration "  # of lines with figures; libraries may print other lines
_ENVIRONMENT: Final = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
_PR_SET_PDEATHSIG: Final = 1

logger = logging.getLogger(__name__)


class ProcessesFailed(RuntimeError):
    """The training processes failed before they wrote a candidate; the log has their output."""


@dataclass(frozen=True, slots=True)
class PolicyTraining:
    """Loads the policies of one cycle and trains the candidate.

    Attributes:
        home: Home folder.
        state: State of the cycle.
        inputs: Inputs of the cycle.
        ledger: Source of the off-policy answers.

    """

    home: Path
    state: CycleState
    inputs: CycleInputs
    ledger: Ledger

    @property
    def folder(self) -> Path:
        """Folder of the cycle."""
        return cycle_folder(self.home, self.state.number)

    @property
    def candidate(self) -> Path:
        """Folder of the candidate."""
        return self.folder / "candidate"

    def reward_models(self) -> RewardModels:
        """Return the reward models of the cycle."""
        return RewardModels(self.folder, self.inputs, self._seed)

    def load_parent(self) -> PreTrainedModel:
        """Load the policy that the cycle starts from.

        Raises:
            CheckpointInvalid: The checkpoint is missing or was changed.

        """
        registry = open_registry(self.home)
        registry.verify(self.state.parent)
        return self.load(registry.path(self.state.parent))

    def load(self, folder: Path) -> PreTrainedModel:
        """Load the parent or the candidate; both may be adapters on the same weights."""
        registry = open_registry(self.home)
        base = int(registry.manifest(self.state.parent).adapter_base) or self.state.parent
        registry.verify(base)
        return load_variant(self.inputs.reference, folder, registry.path(base))

    def train(
        self,
        on_iteration: Callable[[Iteration], None],
        raise_if_stopped: Callable[[], None],
        ranks: Ranks | None = None,
    ) -> None:
        """Train the live policy and write the candidate; continues an interrupted training.

        Args:
            on_iteration: Called with the figures of every iteration.
            raise_if_stopped: Called before every step; an exception from it stops the training.
            ranks: The processes that train together, if this is one of several.

        """
        inputs, settings = self.inputs, self.inputs.settings
        trained = run_ppo(
            self._ppo_inputs(),
            settings.ppo,
            seed=self._seed(SeedSalt.PPO),
            state=self.folder / "ppo",
            dtype=settings.dtype,
            on_iteration=on_iteration,
            raise_if_stopped=raise_if_stopped,
            ranks=ranks,
        )
        if ranks is not None and ranks.rank > 0:
            return
        if settings.tune == "lora":
            save_adapter(trained, self.candidate)
        else:
            save_model(trained, inputs.tokenizer, self.candidate)

    def _ppo_inputs(self) -> PPOInputs:
        inputs, settings = self.inputs, self.inputs.settings
        models = self.reward_models()
        reward = models.load()
        policy = inputs.prepare_for_training(self._seed(SeedSalt.ADAPTER), self.load_parent())
        return PPOInputs(
            policy=policy,
            critic=new_critic(policy, reward, settings.ppo),
            reference=inputs.reference,
            reward=reward,
            sampler=inputs.sampler,
            prompts=inputs.prompts,
            text=inputs.text,
            text_by_reference=inputs.text_by_reference,
            off_policy=off_policy_answers(
                self.ledger.stream_events(upto_seq=self.state.upto_seq),
                version=self.state.parent,
                ppo=settings.ppo,
                reward=settings.reward,
                context=inputs.context,
                vocabulary=inputs.vocabulary,
                split_secret=inputs.split_secret,
            ),
            posteriors=models.load_posteriors(),
        )

    def train_in_processes(
        self,
        count: int,
        on_iteration: Callable[[Iteration], None],
        raise_if_stopped: Callable[[], None],
    ) -> None:
        """Do what `train` does, in `count` processes.

        Raises:
            ProcessesFailed: The processes failed before they wrote a candidate.

        """
        # Compiled layers cannot be sharded.
        settings = self.inputs.settings.model_copy(update={"compiled": False})
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
            for line in _read_lines(process, raise_if_stopped):
                if line.startswith(_ITERATION_PREFIX):
                    on_iteration(Iteration(**json.loads(line.removeprefix(_ITERATION_PREFIX))))
                else:
                    logger.info("%s", line.rstrip())
            if process.wait() != 0:
                raise ProcessesFailed(
                    f"training the policy in {count} processes failed with exit status "
                    f"{process.poll()}; see their output above"
                )
        finally:
            _stop(process)

    def _seed(self, salt: SeedSalt) -> int:
        return self.state.seed(self.inputs.settings.seed, salt)


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


def _read_lines(
    process: "subprocess.Popen[str]", raise_if_stopped: Callable[[], None]
) -> Iterator[str]:
    """Yield the lines that a process prints, and call `raise_if_stopped` while waiting for them."""
    queue: SimpleQueue[str] = SimpleQueue()
    output = process.stdout
    assert output is not None

    def read() -> None:
        for line in output:
            queue.put(line)
        queue.put("")

    threading.Thread(target=read, daemon=True).start()
    while True:
        raise_if_stopped()
        try:
            line = queue.get(timeout=_POLL_SECONDS)
        except Empty:
            continue
        if not line:
            return
        yield line


def _stop(process: "subprocess.Popen[str]") -> None:
    """Stop torchrun and the processes that it started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main(home: Path, state: CycleState, settings: LearnerSettings) -> None:
    """Train as one of several processes; rank 0 prints every iteration's figures as JSON."""
    ledger = Ledger(home / "ledger.db")
    with join_ranks() as ranks:
        inputs = load_inputs(home, settings, ledger, state.upto_seq, state.sizes)

        def print_iteration(iteration: Iteration) -> None:
            if ranks.rank == 0:
                sys.stdout.write(_ITERATION_PREFIX + json.dumps(asdict(iteration)) + "\n")
                sys.stdout.flush()

        try:
            PolicyTraining(home, state, inputs, ledger).train(print_iteration, lambda: None, ranks)
        finally:
            inputs.close()
            ledger.close()


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        CycleState.model_validate_json(sys.argv[2]),
        LearnerSettings.model_validate_json(sys.argv[3]),
    )
