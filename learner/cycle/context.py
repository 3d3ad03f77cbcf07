"""What the stages of one learning cycle share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from feedback.ledger.store import Ledger
from learner.cycle.inputs import CycleInputs, load_inputs
from learner.cycle.metrics import Metrics
from learner.cycle.policy_training import PolicyTraining
from learner.cycle.publishing import Publisher
from learner.cycle.reporting import Reporter
from learner.cycle.reward_models import RewardModels
from learner.cycle.state import CycleState, cycle_folder
from learner.data.preferences import PreferenceExample, Split, preference_examples, split_examples
from learner.errors import Interrupted
from learner.reward.probe import ProbeResult, probe
from learner.settings import LearnerSettings

_MAX_EXAMPLE_TOKENS: Final = 2048


class CycleData:
    """Data of a cycle, each part of which is loaded on first use.

    It belongs to one range of the ledger and to the people who were not forgotten when it was
    loaded, so a cycle that restarts takes a new one.
    """

    def __init__(
        self,
        home: Path,
        settings: LearnerSettings,
        ledger: Ledger,
        upto_seq: int,
        raise_if_stopped: Callable[[], None],
    ) -> None:
        """Load nothing yet.

        Args:
            home: Home folder.
            settings: Settings of the learner, as configured.
            ledger: Source of prompts and votes.
            upto_seq: Last ledger row to use.
            raise_if_stopped: Called while the probe runs; an exception from it stops the probe.

        """
        self._home = home
        self._configured = settings
        self._ledger = ledger
        self._upto_seq = upto_seq
        self._raise_if_stopped = raise_if_stopped
        self._inputs: CycleInputs | None = None

    @property
    def inputs(self) -> CycleInputs:
        """Settings for the model, reference policy, prompts and text."""
        if self._inputs is None:
            self._inputs = load_inputs(self._home, self._configured, self._ledger, self._upto_seq)
        return self._inputs

    @cached_property
    def examples(self) -> dict[Split, list[PreferenceExample]]:
        """Training examples by split."""
        config = self.inputs.reference.config
        context = getattr(config, "max_position_embeddings", _MAX_EXAMPLE_TOKENS)
        all_examples = preference_examples(
            self._ledger.effective_events(upto_seq=self._upto_seq),
            self.inputs.encode_answer,
            context=min(context, _MAX_EXAMPLE_TOKENS),
        )
        return split_examples(all_examples, self.inputs.settings.reward)

    @cached_property
    def probe_result(self) -> ProbeResult:
        """The probe's gain and the raters' reliabilities, from all examples not held out.

        The judge shares the reliabilities with the reward model. They describe the raters; only
        what the judge learns about answers must be independent of the reward model.
        """
        inputs = self.inputs
        return probe(
            inputs.reference,
            [*self.examples["reward"], *self.examples["judge"]],
            pad=inputs.pad,
            dtype=inputs.settings.dtype,
            micro_tokens=inputs.settings.reward.micro_tokens,
            raise_if_stopped=self._raise_if_stopped,
        )

    def close(self) -> None:
        """Stop the sampling engine, if one was started."""
        if self._inputs is not None:
            self._inputs.close()


@dataclass(slots=True)
class CycleContext:
    """What the stages of one cycle share.

    Attributes:
        home: Home folder.
        state: State of the cycle; the runner changes and saves it after every stage.
        configured: Settings of the learner, as configured.
        ledger: Ledger of the home folder.
        publisher: Publisher of candidates and policy events.
        metrics: Metrics of the learner.
        stopped: Returns whether the learner must stop.
        data: Data of the cycle; replaced when the cycle restarts.

    """

    home: Path
    state: CycleState
    configured: LearnerSettings
    ledger: Ledger
    publisher: Publisher
    metrics: Metrics
    stopped: Callable[[], bool]
    data: CycleData = field(init=False)

    def __post_init__(self) -> None:
        """Start with data of which nothing is loaded."""
        self.data = self._new_data()

    @property
    def folder(self) -> Path:
        """Folder of the cycle."""
        return cycle_folder(self.home, self.state.number)

    @property
    def candidate(self) -> Path:
        """Folder of the candidate."""
        return self.folder / "candidate"

    @property
    def inputs(self) -> CycleInputs:
        """Inputs of the cycle, loaded on first use."""
        return self.data.inputs

    @property
    def settings(self) -> LearnerSettings:
        """Settings of the learner with the defaults for the model."""
        return self.data.inputs.settings

    @property
    def reporter(self) -> Reporter:
        """Reporter of the cycle."""
        return Reporter(self.folder)

    @property
    def policy_training(self) -> PolicyTraining:
        """Training of the cycle's candidate."""
        return PolicyTraining(self.home, self.state, self.inputs, self.ledger)

    @property
    def reward_models(self) -> RewardModels:
        """Reward models of the cycle."""
        return self.policy_training.reward_models()

    def raise_if_stopped(self) -> None:
        """Raise an error if the learner must stop.

        Raises:
            Interrupted: The learner must stop.

        """
        if self.stopped():
            raise Interrupted

    def is_outdated(self) -> bool:
        """Return whether the candidate must not be published, because a person was forgotten.

        A version that is in the registry already stays; it can no longer be undone.
        """
        forgotten_since = self.ledger.last_forgetting() != self.state.forgettings
        return forgotten_since and not self.publisher.has_version(self.state.version)

    def replace_data(self) -> None:
        """Release the data, and load them anew on the next use."""
        self.data.close()
        self.data = self._new_data()

    def _new_data(self) -> CycleData:
        return CycleData(
            self.home, self.configured, self.ledger, self.state.upto_seq, self.raise_if_stopped
        )
