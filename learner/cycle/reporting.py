"""Keeping a cycle's notes while it is under way, and writing its report from them.

The notes are one file in the cycle's folder, replaced as the stages go, so that a kill loses
nothing. They are dropped with what was trained when somebody is forgotten.
"""

import datetime
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from feedback.ledger.rows import JoinedEvent
from feedback.log.events import feedback_kind
from learner import corpus
from learner.cycle.materials import Materials
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
_SAMPLED: Final = 6  # prompts
_SEARCHED: Final = 600  # demonstrations among which they are looked for
_SAMPLE_SEED: Final = 0  # the same in every cycle, so that versions can be put side by side
# For a model that was brought in, which has no demonstrations.
_GENERAL: Final = (
    "Hello! What can you do for me?",
    "What is a good breakfast before a long walk?",
    "How do I make a cup of tea?",
    "Tell me a short story about a lighthouse.",
    "Why do leaves change colour in autumn?",
    "I am nervous about a job interview tomorrow.",
)


class Reporter:
    """Takes the notes of the cycle in one folder, and writes its report."""

    def __init__(self, folder: Path) -> None:
        """Go on with the notes in `folder`, where there are any."""
        self._folder = folder

    def began(
        self,
        judged: Sequence[JoinedEvent],
        opinions: Mapping[Split, Sequence[PreferenceExample]],
        materials: Materials,
    ) -> None:
        """Note what the cycle learns from, and which weights it trains."""
        lora = materials.settings.lora
        adapters = f"adapters (LoRA) of rank {lora.rank} on frozen weights"
        self._note(
            tuned=adapters if materials.settings.tune == "lora" else "all weights",
            data=Data(
                votes=dict(Counter(str(feedback_kind(j.event)) for j in judged)),
                raters=len({(j.event.owner, j.event.subject) for j in judged}),
                opinions={split: len(part) for split, part in opinions.items()},
                prompts=len(materials.prompts),
                held_out_prompts=len({tuple(p) for p in materials.held_out_prompts}),
            ),
        )

    def add_iteration(self, figures: dict[str, float]) -> None:
        """Note a PPO iteration; those from its number on, noted before a kill, are replaced."""
        earlier = [i for i in self._notes().iterations if i["number"] < figures["number"]]
        self._note(iterations=(*earlier, figures))

    def last_iteration(self) -> dict[str, float]:
        """Return the figures of PPO's last iteration, noted by whichever process did it."""
        return dict(*self._notes().iterations[-1:])

    def examined(
        self,
        figures: Mapping[str, float],
        materials: Materials,
        *,
        live: PreTrainedModel,
        candidate: PreTrainedModel,
    ) -> None:
        """Note what the gate demanded, and what the live policy and the candidate answer."""
        self._note(
            criteria=criteria(figures, materials.settings.gate),
            samples=_sample_answers(materials, live, candidate),
        )

    def write(self, into: Path, state: CycleState, outcome: Outcome, base: str) -> None:
        """Write the report as JSON, Markdown and a picture.

        Args:
            into: An existing folder.
            outcome: That the state will have when the cycle ends.
            base: What the family of policies descends from.

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
        logger.info("cycle %d: its report is %s", state.number, into / "report.md")

    def _notes(self) -> Notes:
        path = self._folder / NOTES
        if not path.exists():
            return Notes()
        try:
            return Notes.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise StateUnusable(f"{path} cannot be read: {error}") from error

    def _note(self, **changed: Any) -> None:
        notes = self._notes().model_copy(update=changed)
        write_bytes(self._folder / NOTES, notes.model_dump_json(indent=2).encode())


def report_prompts(made_here: bool, seed: int, settings: RewardSettings) -> list[str]:
    """Return the prompts that a report's samples answer; the same ones in every cycle.

    They are never what somebody asked: nothing could take that out of a published checkpoint.

    Args:
        made_here: Whether the policies descend from the model that Plaudit trains: then they are
            held-out prompts of its generated demonstrations, else a few that any model knows.
        seed: Of the demonstrations.

    """
    if not made_here:
        return list(_GENERAL)
    found: dict[str, None] = {}
    for first, *others in islice(corpus.conversations(seed), _SEARCHED):
        split = prompt_split(
            prompt_key([first]),
            held_out_share=settings.held_out_share,
            judge_share=settings.judge_share,
        )
        if len(others) == 1 and split == "held_out":
            found[first["content"]] = None
    return list(found)[:_SAMPLED]


def _sample_answers(
    materials: Materials, live: PreTrainedModel, candidate: PreTrainedModel
) -> tuple[SampledPrompt, ...]:
    """Let both policies answer, at the temperature at which they are served."""
    settings, tokenizer = materials.settings, materials.tokenizer
    prompts = report_prompts(materials.made_here, settings.seed, settings.reward)
    ids = [encode_chat(tokenizer, [{"role": "user", "content": p}], answer=True) for p in prompts]
    before, after = (
        materials.sampler(model).sample(
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
