"""Questions how to do something."""

from __future__ import annotations

import random

import pydantic.dataclasses

from learner.corpus.compose import Content
from learner.corpus.kinds.draft import MORE, Draft
from learner.corpus.tables import STRICT, load_table, wordings
from learner.corpus.text import capitalise, plain_part

_ABOUT_HOWTO = (
    "Do you have all that you need?",
    "Do you want to try it today?",
    "Did you ever try it?",
    "Is there something else you want to do?",
    "Do you want to know more?",
)
_ORDER = {
    2: ("First,", "Then,"),
    3: ("First,", "Then,", "Last,"),
    4: ("First,", "Then,", "After that,", "Last,"),
}


@pydantic.dataclasses.dataclass(frozen=True, slots=True, config=STRICT)
class HowTo:
    """Instructions in `howtos.jsonl`; all but the goal are 'plain | detail' texts.

    Attributes:
        goal: What the user wants to do, in the infinitive; it says 'my' where an answer says
            'your'.
        summary: The whole in one imperative sentence.
        steps: Imperatives in lower case, in order.
        tip: One more imperative.

    """

    goal: str
    summary: str
    steps: tuple[str, ...]
    tip: str

    @property
    def answer_goal(self) -> str:
        """The goal as an answer says it."""
        return self.goal.replace("my ", "your ")


def howtos() -> tuple[HowTo, ...]:
    """Return all instructions, in the order of their table."""
    return load_table("howtos.jsonl", HowTo)


def _join_steps(steps: tuple[str, ...], count: int) -> list[str]:
    """Join the steps to `count` sentences, each with the detail of its last step."""
    size, extra = divmod(len(steps), count)
    sentences: list[str] = []
    start = 0
    for number, order in enumerate(_ORDER[count]):
        end = start + size + (number < extra)
        joined = " and ".join([*map(plain_part, steps[start : end - 1]), steps[end - 1]])
        sentences.append(f"{order} {joined}")
        start = end
    return sentences


def howto_lines(howto: HowTo, summary: str) -> tuple[tuple[str, ...], ...]:
    """Return a how-to in each length: the summary, all steps, and all steps with the tip."""
    by_length = [tuple(_join_steps(howto.steps, n)) for n in range(2, len(howto.steps) + 1)]
    return ((summary,), *by_length, (*by_length[-1], capitalise(howto.tip)))


def howto_question(rng: random.Random) -> Draft:
    """Draw a question how to do something."""
    howto = rng.choice(howtos())
    summary = rng.choice(
        (
            f"To {howto.answer_goal}, {howto.summary}",
            capitalise(howto.summary),
            f"You should {howto.summary}",
        )
    )
    questions = (*_ABOUT_HOWTO, rng.choice(MORE))
    content = Content(howto_lines(howto, summary), questions, (), "request")
    return Draft("howto", rng.choice(wordings("howtos")).format(howto.goal), content)
