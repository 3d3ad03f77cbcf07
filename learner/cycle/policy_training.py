"""PPO in a learning cycle: trains the live policy into a candidate, in one or several processes.

Several processes are started by torchrun for this stage only, each with its own GPU if there are
GPUs, on one machine or on several. Rank 0, on the machine that leads, reads the ledger, sends the
others what it read, and writes the candidate. All read and write the cycle's folder.
"""

import json
import logging
import sys
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from transformers import PreTrainedModel

from feedback.ledger.store import Ledger
from feedback.registry import open_registry
from learner.cycle.inputs import CycleInputs, load_inputs, load_reference
from learner.cycle.reward_models import RewardModels
from learner.cycle.state import CycleState, SeedSalt, cycle_folder
from learner.errors import MachinesUnusable
from learner.models.loading import load_variant
from learner.models.ranks import Ranks, join_ranks
from learner.models.saving import save_adapter, save_model
from learner.ppo.critic import new_critic
from learner.ppo.off_policy import OffPolicyAnswer, off_policy_answers
from learner.ppo.steps import PPOInputs
from learner.ppo.trainer import Iteration, run_ppo
from learner.processes.joining import TRAINING_MODULE
from learner.processes.torchrun import ProcessesFailed, Torchrun, end_with_parent
from learner.sampling.factory import SamplerFactory
from learner.settings import LearnerSettings

# First words of the lines that rank 0 prints; libraries may print other lines.
_JOINED: Final = "joined:"
_ITERATION: Final = "iteration"
_PROBLEM: Final = "problem:"
_MAX_FAILURES: Final = 3  # of several machines, without an iteration in between

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PolicyTraining:
    """Loads the policies of one cycle and trains the candidate.

    Attributes:
        home: Home folder.
        state: State of the cycle.
        inputs: Inputs of the cycle.
        ledger: Source of the off-policy answers; None in a process that rank 0 sends them to.

    """

    home: Path
    state: CycleState
    inputs: CycleInputs
    ledger: Ledger | None

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
    ) -> PreTrainedModel:
        """Train the live policy, and return the candidate; continues an interrupted training.

        Args:
            on_iteration: Called with the figures of every iteration.
            raise_if_stopped: Called before every step; an exception from it stops the training.
            ranks: The processes that train together, if this is one of several.

        """
        settings = self.inputs.settings
        return run_ppo(
            self._ppo_inputs(ranks or Ranks()),
            settings.ppo,
            seed=self._seed(SeedSalt.PPO),
            state=self.folder / "ppo",
            dtype=settings.dtype,
            on_iteration=on_iteration,
            raise_if_stopped=raise_if_stopped,
            ranks=ranks,
        )

    def save(self, trained: PreTrainedModel) -> None:
        """Write the candidate."""
        if self.inputs.settings.tune == "lora":
            save_adapter(trained, self.candidate)
        else:
            save_model(trained, self.inputs.tokenizer, self.candidate)

    def _ppo_inputs(self, ranks: Ranks) -> PPOInputs:
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
            off_policy=ranks.broadcast(self._off_policy),
            posteriors=models.load_posteriors(),
        )

    def _off_policy(self) -> list[OffPolicyAnswer]:
        assert self.ledger is not None, "rank 0 has the ledger"
        inputs, settings = self.inputs, self.inputs.settings
        return off_policy_answers(
            self.ledger.stream_events(upto_seq=self.state.upto_seq),
            version=self.state.parent,
            ppo=settings.ppo,
            reward=settings.reward,
            context=inputs.context,
            vocabulary=inputs.vocabulary,
            split_secret=inputs.split_secret,
        )

    def train_in_processes(
        self,
        torchrun: Torchrun,
        on_iteration: Callable[[Iteration], None],
        raise_if_stopped: Callable[[], None],
    ) -> None:
        """Do what `train` does, in several processes, on one machine or on several.

        When a machine of several fails, the others wait for it, and training continues from the
        last saved iteration.

        Raises:
            MachinesUnusable: Not all machines joined, or they do not share the cycle's folder.
            ProcessesFailed: The processes failed before they wrote a candidate.

        """
        failures = 0

        def iterated(iteration: Iteration) -> None:
            nonlocal failures
            failures = 0
            on_iteration(iteration)

        while True:
            try:
                self._run_processes(torchrun, iterated, raise_if_stopped)
            except ProcessesFailed as error:
                failures += 1
                if torchrun.machines.count == 1 or failures == _MAX_FAILURES:
                    raise
                logger.warning("%s; waiting for all machines to continue", error)
            else:
                return

    def _run_processes(
        self,
        torchrun: Torchrun,
        on_iteration: Callable[[Iteration], None],
        raise_if_stopped: Callable[[], None],
    ) -> None:
        # Compiled layers cannot be sharded.
        settings = self.inputs.settings.model_copy(update={"compiled": False})
        arguments = [str(self.home), self.state.model_dump_json(), settings.model_dump_json()]
        joined = False
        try:
            with closing(torchrun.run([TRAINING_MODULE, *arguments], raise_if_stopped)) as lines:
                for line in lines:
                    kind, _, rest = line.rstrip().partition(" ")
                    if kind == _ITERATION:
                        on_iteration(Iteration(**json.loads(rest)))
                    elif kind == _PROBLEM:
                        raise MachinesUnusable(rest)
                    else:
                        joined = joined or kind == _JOINED
                        logger.info("%s", line.rstrip())
        except ProcessesFailed as error:
            if joined or torchrun.machines.count == 1:
                raise
            raise _not_joined(torchrun) from error

    def _seed(self, salt: SeedSalt) -> int:
        return self.state.seed(self.inputs.settings.seed, salt)


def _not_joined(torchrun: Torchrun) -> MachinesUnusable:
    machines = torchrun.machines
    return MachinesUnusable(
        f"the {machines.count} machines that train together did not meet at {machines.rendezvous} "
        f"within {torchrun.join_seconds:.0f} s; see torchrun's output above. Run 'plaudit learn "
        "--join' on each of the others, check that they reach this address and that it is this "
        "machine's, and start the learner again: it continues from here"
    )


def main(home: Path, run: tuple[CycleState, LearnerSettings] | None) -> None:
    """Train as one of several processes; rank 0 prints every iteration's figures as JSON.

    Args:
        home: Home folder.
        run: State of the cycle and settings; None on a machine that joins another one.

    """
    end_with_parent()
    with join_ranks(leads=run is not None) as ranks:
        _print(ranks, _JOINED, f"{ranks.size} processes train the policy")
        try:
            training, trained = _train(home, run, ranks)
        except MachinesUnusable as error:
            _print(ranks, _PROBLEM, str(error))
            raise
    if ranks.rank == 0:
        # Outside of the group, since transformers saves only where `torch.distributed` counts 0.
        training.save(trained)


def _train(
    home: Path, run: tuple[CycleState, LearnerSettings] | None, ranks: Ranks
) -> tuple[PolicyTraining, PreTrainedModel]:
    sent = ranks.broadcast(lambda: run)
    assert sent is not None, "rank 0 is on the machine that leads"
    state, settings = sent
    _check_shared(cycle_folder(home, state.number), ranks)
    ledger = Ledger(home / "ledger.db") if ranks.rank == 0 else None
    inputs = _share_inputs(home, state, settings, ledger, ranks)
    try:
        training = PolicyTraining(home, state, inputs, ledger)
        return training, training.train(
            lambda iteration: _print(ranks, _ITERATION, json.dumps(asdict(iteration))),
            lambda: None,
            ranks,
        )
    finally:
        inputs.close()
        if ledger is not None:
            ledger.close()


def _share_inputs(
    home: Path, state: CycleState, settings: LearnerSettings, ledger: Ledger | None, ranks: Ranks
) -> CycleInputs:
    """Load the inputs of a cycle in each of several processes.

    Rank 0 loads them and sends the others what it read; they load the models alone. The secret
    of the split stays with rank 0.

    Args:
        home: Home folder.
        state: State of the cycle.
        settings: Settings of the learner.
        ledger: Ledger, which rank 0 must have.
        ranks: The processes that train together.

    """
    inputs = None
    if ledger is not None:
        inputs = load_inputs(home, settings, ledger, state.upto_seq, state.sizes)
    sent = ranks.broadcast(lambda: _read_data(inputs))
    if inputs is not None:
        return inputs
    reference, tokenizer, _ = load_reference(home, sent["settings"])
    samplers = SamplerFactory(reference, tokenizer, sent["settings"])
    return CycleInputs(reference=reference, tokenizer=tokenizer, samplers=samplers, **sent)


def _read_data(inputs: CycleInputs | None) -> dict[str, Any]:
    """Return the inputs without models and secret, which are plain data."""
    assert inputs is not None, "rank 0 has the ledger"
    kept = ("reference", "tokenizer", "samplers")
    data = {f.name: getattr(inputs, f.name) for f in fields(inputs) if f.name not in kept}
    return data | {"split_secret": b""}


def _print(ranks: Ranks, kind: str, text: str) -> None:
    if ranks.rank == 0:
        sys.stdout.write(f"{kind} {text}\n")
        sys.stdout.flush()


def _check_shared(folder: Path, ranks: Ranks) -> None:
    """Check that all processes see the folder of the cycle in which rank 0 writes.

    Raises:
        MachinesUnusable: Some do not.

    """
    name = ranks.broadcast(lambda: f".shared-{uuid.uuid4().hex}")
    if ranks.rank == 0:
        (folder / name).touch()
    ranks.wait()
    apart = round(ranks.total(not (folder / name).exists()))
    if ranks.rank == 0:
        (folder / name).unlink()
    if apart:
        raise MachinesUnusable(
            f"{apart} of {ranks.size} training processes do not see the leading machine's folder "
            f"{folder}; share the folder 'learner' of its home folder with all machines"
        )


if __name__ == "__main__":
    _state, *_settings = sys.argv[2:] or [""]
    main(
        Path(sys.argv[1]),
        (
            CycleState.model_validate_json(_state),
            LearnerSettings.model_validate_json(_settings[0]),
        )
        if _state
        else None,
    )
