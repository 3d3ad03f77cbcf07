"""The reward models of one cycle: made, trained, saved and loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from learner.cycle.materials import Materials
from learner.data.preferences import PreferenceExample
from learner.models.checkpoint import load_state, save_state
from learner.ppo.rollouts import rows_from_samples
from learner.reward.evaluation import RewardReport
from learner.reward.model import RewardModel, load_trained_state, trained_state
from learner.reward.probe import ProbeResult, probe
from learner.reward.reliability import Reliabilities
from learner.reward.training import train_reward

_TOLD = 3  # salt of the answers that scores are normalised on, the same for all models


@dataclass(frozen=True, slots=True)
class RewardModels:
    """Reward models on the cycle's reference.

    Attributes:
        folder: Of the cycle.
        seed: Gives the cycle's seed for a salt.

    """

    folder: Path
    materials: Materials
    seed: Callable[[int], int]

    def probe(
        self, examples: Sequence[PreferenceExample], check: Callable[[], None]
    ) -> ProbeResult:
        """Find what opinions tell, and how far each rater can be trusted."""
        settings = self.materials.settings
        return probe(
            self.materials.reference,
            examples,
            pad=self.materials.pad,
            dtype=settings.dtype,
            micro_tokens=settings.reward.micro_tokens,
            raise_if_stopped=check,
        )

    def train(
        self,
        examples: Sequence[PreferenceExample],
        held_out: Sequence[PreferenceExample],
        salt: int,
        *,
        reliabilities: Reliabilities,
        on_epoch: Callable[[RewardReport], None],
        check: Callable[[], None],
    ) -> tuple[RewardModel, RewardReport]:
        """Train one from the reference, and fix the scale of its scores."""
        settings, model = self.materials.settings, self._new(salt)
        report = train_reward(
            model,
            examples,
            held_out,
            settings.reward,
            seed=self.seed(salt),
            reliabilities=reliabilities,
            on_epoch=on_epoch,
            raise_if_stopped=check,
        )
        if report.epochs and self.materials.prompts:
            prompts, ppo = self.materials.prompts[: settings.reward.normalise_on], settings.ppo
            told = self.materials.sampler(self.materials.reference).sample(
                prompts, 1, ppo.max_tokens, ppo.temperature, self.seed(_TOLD)
            )
            model.normalise(rows_from_samples(told))
        return model, report

    def save(self, model: RewardModel, file: str) -> None:
        """Write what training changed to a file of the cycle."""
        save_state(self.folder / file, {**trained_state(model)})

    def load(self, file: str) -> RewardModel:
        """Return the model that was saved to a file of the cycle."""
        model = self._new(0)
        state = load_state(self.folder / file)
        assert state is not None, f"{file} is written before the stage that reads it"
        load_trained_state(model, state)
        return model

    def _new(self, salt: int) -> RewardModel:
        seed = self.seed(salt)
        return RewardModel(
            self.materials.to_train(seed),
            pad=self.materials.pad,
            seed=seed,
            dtype=self.materials.settings.dtype,
        )
