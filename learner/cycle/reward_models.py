"""Creates, trains, saves and loads the reward models of one cycle."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from learner.cycle.inputs import CycleInputs
from learner.cycle.state import SeedSalt
from learner.data.preferences import PreferenceExample
from learner.models.training_state import load_state, save_state
from learner.ppo.rollouts import rows_from_samples
from learner.reward.evaluation import RewardReport
from learner.reward.model import RewardModel, load_trained_state, trained_state
from learner.reward.reliability import Reliabilities
from learner.reward.training import train_reward


@dataclass(frozen=True, slots=True)
class RewardModels:
    """The reward models of one cycle, on the trunk of its reference policy.

    Attributes:
        folder: Folder of the cycle.
        inputs: Inputs of the cycle.
        seed: Returns the cycle's seed for a purpose.

    """

    folder: Path
    inputs: CycleInputs
    seed: Callable[[SeedSalt], int]

    def train(
        self,
        examples: Sequence[PreferenceExample],
        held_out: Sequence[PreferenceExample],
        salt: SeedSalt,
        *,
        reliabilities: Reliabilities,
        on_epoch: Callable[[RewardReport], None],
        raise_if_stopped: Callable[[], None],
    ) -> tuple[RewardModel, RewardReport]:
        """Train a new reward model, normalise its scores, and return it with its report.

        Args:
            examples: Training examples.
            held_out: Held-out examples, which choose the epoch and measure the model.
            salt: Purpose of the model, which gives its seed.
            reliabilities: Reliability of each rater.
            on_epoch: Called with the report of every epoch.
            raise_if_stopped: Called before every step; an exception from it stops the training.

        """
        settings, model = self.inputs.settings, self._new(salt)
        report = train_reward(
            model,
            examples,
            held_out,
            settings.reward,
            seed=self.seed(salt),
            reliabilities=reliabilities,
            on_epoch=on_epoch,
            raise_if_stopped=raise_if_stopped,
        )
        if report.epochs and self.inputs.prompts:
            # All reward models of a cycle are normalised on the same sampled answers.
            prompts, ppo = self.inputs.prompts[: settings.reward.normalise_on], settings.ppo
            samples = self.inputs.sampler(self.inputs.reference).sample(
                prompts, 1, ppo.max_tokens, ppo.temperature, self.seed(SeedSalt.NORMALISATION)
            )
            model.normalise(rows_from_samples(samples))
        return model, report

    def save(self, model: RewardModel, file: str) -> None:
        """Write the trained weights to a file in the cycle's folder."""
        save_state(self.folder / file, {**trained_state(model)})

    def load(self, file: str) -> RewardModel:
        """Return the model saved in a file of the cycle's folder."""
        model = self._new(SeedSalt.LOADED_MODEL)
        state = load_state(self.folder / file)
        assert state is not None, f"an earlier stage writes {file}"
        load_trained_state(model, state)
        return model

    def _new(self, salt: SeedSalt) -> RewardModel:
        seed = self.seed(salt)
        return RewardModel(
            self.inputs.prepare_for_training(seed),
            pad=self.inputs.pad,
            seed=seed,
            dtype=self.inputs.settings.dtype,
        )
