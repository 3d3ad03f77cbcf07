"""What the stages of one learning cycle share."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Final

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from feedback.ledger.store import Ledger
from learner.cycle.inputs import CycleInputs, load_inputs
from learner.cycle.metrics import Metrics
from learner.cycle.policy_training import PolicyTraining
from learner.cycle.publishing import Publisher
from learner.cycle.reporting import Reporter
from learner.cycle.reward_models import RewardModels
from learner.cycle.state import CycleState, DeathRecord, Place, cycle_folder
from learner.data.answers import can_share
from learner.data.owner_bound import OwnerBound
from learner.data.preferences import (
    JoinedEvent,
    PreferenceExample,
    Split,
    fit_into_batch,
    preference_examples,
    split_examples,
)
from learner.data.tokenizer import encode_answer
from learner.errors import Interrupted
from learner.reward.probe import ProbeResult, probe
from learner.settings import LearnerSettings

_MAX_EXAMPLE_TOKENS: Final = 2048


def training_examples(
    events: Iterable[JoinedEvent],
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    micro_tokens: int,
    on_unusable: Callable[[JoinedEvent, str], None] = lambda *_: None,
) -> list[PreferenceExample]:
    """Build the training examples of votes, each of which fits into a batch of the model.

    Args:
        events: Votes with their completion records.
        reference: Model that the examples are for.
        tokenizer: Its tokenizer.
        micro_tokens: Number of tokens in a batch.
        on_unusable: Called with each vote of which no example can be made, and the reason.

    """
    context = getattr(reference.config.get_text_config(), "max_position_embeddings", None)
    found = preference_examples(
        events,
        partial(encode_answer, tokenizer),
        context=min(context or _MAX_EXAMPLE_TOKENS, _MAX_EXAMPLE_TOKENS, micro_tokens // 2),
        vocabulary=int(reference.get_input_embeddings().weight.shape[0]),
        on_unusable=on_unusable,
    )
    shared = can_share(reference.config)
    return [fit_into_batch(example, micro_tokens, shared=shared) for example in found]


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
        state: CycleState,
        raise_if_stopped: Callable[[], None],
    ) -> None:
        """Load nothing yet.

        Args:
            home: Home folder.
            settings: Settings of the learner, as configured.
            ledger: Source of prompts and votes.
            state: State of the cycle, which says what to use of the ledger.
            raise_if_stopped: Called while the probe runs; an exception from it stops the probe.

        """
        self._home = home
        self._configured = settings
        self._ledger = ledger
        self._upto_seq = state.upto_seq
        self._state = state
        self._bound = OwnerBound(settings.max_owner_votes, state.trusted_owners)
        self._raise_if_stopped = raise_if_stopped
        self._inputs: CycleInputs | None = None

    @property
    def inputs(self) -> CycleInputs:
        """Settings for the model, reference policy, prompts and text."""
        if self._inputs is None:
            self._inputs = load_inputs(
                self._home, self._configured, self._ledger, self._upto_seq, self._state.sizes
            )
        return self._inputs

    @cached_property
    def examples(self) -> dict[Split, list[PreferenceExample]]:
        """Training examples by split."""
        inputs, unusable = self.inputs, dict[int, str]()
        found = training_examples(
            self._ledger.stream_events(upto_seq=self._upto_seq),
            inputs.reference,
            inputs.tokenizer,
            inputs.settings.reward.micro_tokens,
            on_unusable=lambda joined, reason: unusable.update({joined.seq: reason}),
        )
        if unusable:
            self._ledger.set_aside(unusable)
        parts = split_examples(found, inputs.settings.reward, inputs.split_secret)
        return {split: self._bound.weigh(part) for split, part in parts.items()}

    @cached_property
    def all_examples(self) -> list[PreferenceExample]:
        """All training examples."""
        return self._bound.weigh([e for part in self.examples.values() for e in part])

    @cached_property
    def probe_result(self) -> ProbeResult:
        """The probe's gain and the raters' reliabilities, from all examples not held out."""
        return probe(self.inputs.features, self.examples["reward"], self._raise_if_stopped)

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
        deaths: Record of the places in this cycle at which the learner has died.

    """

    home: Path
    state: CycleState
    configured: LearnerSettings
    ledger: Ledger
    publisher: Publisher
    metrics: Metrics
    stopped: Callable[[], bool]
    data: CycleData = field(init=False)
    deaths: DeathRecord = field(init=False)

    def __post_init__(self) -> None:
        """Start with data of which nothing is loaded."""
        self.data = self._new_data()
        self.deaths = DeathRecord.load(self.folder)

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

    def enter(self, step: int = 0, votes: Sequence[int] = ()) -> None:
        """Note where in the present stage the learner works; a process that dies leaves the note.

        Args:
            step: Step of the stage.
            votes: Ledger rows of the votes in work.

        """
        place = Place(stage=self.state.stage, step=step, votes=tuple(votes))
        self.deaths.enter(self.folder, place)

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
        return CycleData(self.home, self.configured, self.ledger, self.state, self.raise_if_stopped)
