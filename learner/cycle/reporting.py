"""Collects the notes of a running cycle and writes its report from them.

The notes are one file in the cycle's folder. Every stage replaces it, so a killed learner loses
nothing. When a cycle restarts without a forgotten person, the notes are deleted with the weights.
"""

import datetime
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from feedback.ledger.rows import JoinedEvent
from feedback.log.events import feedback_kind
from learner import corpus
from learner.cycle.inputs import CycleInputs
from learner.cycle.state import CycleState
from learner.data.preferences import PreferenceExample, Split, prompt_key, prompt_split
from learner.data.tokenizer import encode_chat
from learner.errors import StateUnusable
from learner.gate.criteria import criteria
from learner.report.chart import chart
from learner.report.contents import Data, Notes, Outcome, Report, SampledPrompt
from learner.report.page import CHART_FILE, markdown
from learner.sampling.sampler import Sample
from learner.settings import RewardSettings
from protos.checkpoints.durable import write_bytes

logger = logging.getLogger(__name__)

NOTES: Final = "notes.json"
_REPORT_PROMPTS: Final = 6
_MAX_DEMONSTRATIONS: Final = 600  # demonstrations that are searched for held-out prompts
_SAMPLE_SEED: Final = 0  # the same in every cycle, so that versions can be compared
# For models that Plaudit did not pre-train: its demonstrations would not suit them.
_GENERAL_PROMPTS: Final = (
    "Hello! What can you do for me?",
    "What is a good breakfast before a long walk?",
    "How do I make a cup of tea?",
    "Tell me a short story about a lighthouse.",
    "Why do leaves change colour in autumn?",
    "I am nervous about a job interview tomorrow.",
)


class Reporter:
    """Collects the notes of one cycle and writes its report."""

    def __init__(self, folder: Path) -> None:
        """Continue with the notes in the cycle's folder, if there are any."""
        self._folder = folder

    def add_data(
        self,
        events: Iterable[JoinedEvent],
        examples: Mapping[Split, Sequence[PreferenceExample]],
        inputs: CycleInputs,
    ) -> None:
        """Note what the cycle learns from and which weights it trains."""
        kinds: Counter[str] = Counter()
        raters: set[tuple[str, str]] = set()
        for joined in events:
            kinds[str(feedback_kind(joined.event))] += 1
            raters.add((joined.event.owner, joined.event.subject))
        lora = inputs.settings.lora
        adapters = f"adapters (LoRA) of rank {lora.rank} on frozen weights"
        self._update(
            tuned=adapters if inputs.settings.tune == "lora" else "all weights",
            data=Data(
                votes=dict(kinds),
                raters=len(raters),
                opinions={split: len(part) for split, part in examples.items()},
                prompts=len(inputs.prompts),
                held_out_prompts=len({tuple(p) for p in inputs.held_out_prompts}),
                left_out_prompts=inputs.left_out_prompts,
                sizing=inputs.sizing,
            ),
        )

    def add_iteration(self, figures: dict[str, float]) -> None:
        """Note an iteration of PPO, replacing that and later ones from before a kill."""
        earlier = [i for i in self._notes().iterations if i["number"] < figures["number"]]
        self._update(iterations=(*earlier, figures))

    def last_iteration(self) -> dict[str, float]:
        """Return the figures of PPO's last iteration; empty if there is none."""
        return dict(*self._notes().iterations[-1:])

    def add_gate_results(
        self,
        figures: Mapping[str, float],
        inputs: CycleInputs,
        *,
        live: PreTrainedModel,
        candidate: PreTrainedModel,
    ) -> None:
        """Note the gate's criteria, and answers of the live policy and the candidate."""
        self._update(
            criteria=criteria(figures, inputs.settings.gate),
            samples=_sample_answers(inputs, live, candidate),
        )

    def write(self, into: Path, state: CycleState, outcome: Outcome, base: str) -> None:
        """Write the report as JSON, Markdown and a chart.

        Args:
            into: Existing folder to write to.
            state: State of the cycle.
            outcome: Outcome to report; the state may not have it yet.
            base: Model that the family of policies descends from.

        """
        report = Report(
            **dict(self._notes()),
            cycle=state.number,
            version=state.version if outcome == "published" else 0,
            parent=state.parent,
            base=base,
            made=datetime.datetime.now(datetime.UTC),
            outcome=outcome,
            reasons=tuple(state.reasons),
            after_seq=state.after_seq,
            upto_seq=state.upto_seq,
            events=state.events,
            figures=state.figures,
            seconds=state.seconds,
        )
        write_bytes(into / "report.json", report.model_dump_json(indent=2).encode())
        write_bytes(into / CHART_FILE, chart(report.iterations).encode())
        write_bytes(into / "report.md", markdown(report).encode())
        logger.info("cycle %d: wrote its report to %s", state.number, into / "report.md")

    def _notes(self) -> Notes:
        path = self._folder / NOTES
        if not path.exists():
            return Notes()
        try:
            return Notes.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise StateUnusable(f"cannot read the notes of the cycle in {path}: {error}") from error

    def _update(self, **changed: Any) -> None:
        notes = self._notes().model_copy(update=changed)
        write_bytes(self._folder / NOTES, notes.model_dump_json(indent=2).encode())


def report_prompts(
    knows_corpus: bool, seed: int, settings: RewardSettings, split_secret: bytes = b""
) -> list[str]:
    """Return the prompts of a report's samples, the same in every cycle.

    Prompts of users are never among them, since nothing could erase those from a published
    checkpoint.

    Args:
        knows_corpus: Whether the policies descend from a model that was trained on the generated
            corpus. Then the prompts are held-out prompts of its demonstrations, else general ones.
        seed: Seed of the demonstrations.
        settings: Shares of the splits.
        split_secret: Secret of the splits.

    """
    if not knows_corpus:
        return list(_GENERAL_PROMPTS)
    prompts: dict[str, None] = {}
    for first, *others in islice(corpus.conversations(seed), _MAX_DEMONSTRATIONS):
        split = prompt_split(
            prompt_key([first]),
            held_out_share=settings.held_out_share,
            secret=split_secret,
        )
        if len(others) == 1 and split == "held_out":
            prompts[first["content"]] = None
    return list(prompts)[:_REPORT_PROMPTS]


def _sample_answers(
    inputs: CycleInputs, live: PreTrainedModel, candidate: PreTrainedModel
) -> tuple[SampledPrompt, ...]:
    """Sample answers of both policies at the serving temperature."""
    settings, tokenizer = inputs.settings, inputs.tokenizer
    prompts = report_prompts(
        inputs.knows_corpus, settings.seed, settings.reward, inputs.split_secret
    )
    ids = [encode_chat(tokenizer, [{"role": "user", "content": p}], answer=True) for p in prompts]
    before, after = (
        inputs.sampler(model).sample(
            ids, 1, settings.ppo.max_tokens, settings.ppo.temperature, _SAMPLE_SEED
        )
        for model in (live, candidate)
    )
    return tuple(
        SampledPrompt(prompt=p, before=_text(b, tokenizer), after=_text(a, tokenizer))
        for p, b, a in zip(prompts, before, after, strict=True)
    )


def _text(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> str:
    text = tokenizer.decode(list(sample.token_ids), skip_special_tokens=True)
    assert isinstance(text, str)
    return text.strip() if sample.finished else f"{text.strip()} …"
