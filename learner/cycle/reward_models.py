"""Creates, trains, saves and loads the models of votes of one cycle."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from learner.cycle.inputs import CycleInputs
from learner.cycle.state import SeedSalt
from learner.data.answers import PromptAnswers
from learner.data.preferences import PreferenceExample
from learner.models.training_state import load_state, save_state
from learner.ppo.reward import PessimisticScore, VotePosteriors, fit_score, load_score
from learner.ppo.rollouts import rows_from_samples
from learner.reward.evaluation import RewardReport
from learner.reward.model import RewardModel, load_trained_state, trained_state
from learner.reward.posterior import ScorePosterior
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
    ) -> tuple[RewardModel, RewardReport, PessimisticScore | None]:
        """Train a new reward model; return it, its report, and the score that PPO climbs with it.

        The score is None if there are too few examples.

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
        if not (report.epochs and held_out and self.inputs.prompts):
            return model, report, None
        typical = self._sample_typical_answers()
        model.normalise(typical)
        score = fit_score(
            self.inputs.features,
            model,
            report,
            examples,
            held_out,
            reliabilities,
            typical,
            seed=self.seed(SeedSalt.POSTERIOR),
            raise_if_stopped=raise_if_stopped,
        )
        return model, report, score

    def _sample_typical_answers(self) -> list[PromptAnswers]:
        """Return answers of the reference policy, which set the scale of the scores."""
        settings = self.inputs.settings
        prompts, ppo = self.inputs.prompts[: settings.reward.normalise_on], settings.ppo
        samples = self.inputs.sampler(self.inputs.reference).sample(
            prompts, 1, ppo.max_tokens, ppo.temperature, self.seed(SeedSalt.NORMALISATION)
        )
        return rows_from_samples(samples)

    def save(self, model: RewardModel, score: PessimisticScore) -> None:
        """Write the trained weights and the score to the cycle's folder."""
        state = {"model": trained_state(model), "score": score.state()}
        save_state(self.folder / "reward.pt", state)

    def load(self) -> RewardModel:
        """Return the saved reward model."""
        model = self._new(SeedSalt.LOADED_MODEL)
        load_trained_state(model, self._load_state("reward.pt")["model"])
        return model

    def save_judge(self, judge: ScorePosterior) -> None:
        """Write the judge to the cycle's folder."""
        save_state(self.folder / "judge.pt", judge.state())

    def load_judge(self) -> ScorePosterior:
        """Return the saved judge."""
        return ScorePosterior(**self._on_device(self._load_state("judge.pt")))

    def load_posteriors(self) -> VotePosteriors:
        """Return the saved score and the judge."""
        score = load_score(self._on_device(self._load_state("reward.pt")["score"]))
        return VotePosteriors(self.inputs.features, score, self.load_judge())

    def _load_state(self, file: str) -> dict[str, Any]:
        state = load_state(self.folder / file)
        assert state is not None, f"an earlier stage writes {file}"
        return state

    def _on_device(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.inputs.reference.device) for name, tensor in state.items()}

    def _new(self, salt: SeedSalt) -> RewardModel:
        seed = self.seed(salt)
        return RewardModel(
            self.inputs.prepare_for_training(seed),
            pad=self.inputs.pad,
            seed=seed,
            dtype=self.inputs.settings.dtype,
        )
