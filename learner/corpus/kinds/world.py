"""Questions about the world, jokes, rhymes and riddles."""

from __future__ import annotations

import random

import pydantic.dataclasses

from learner.corpus.compose import Content, ordered
from learner.corpus.kinds.draft import MORE, Draft
from learner.corpus.tables import STRICT, load_table


@pydantic.dataclasses.dataclass(frozen=True, slots=True, config=STRICT)
class Question:
    """A question about the world in `questions.jsonl`, such as why the sky is blue.

    Attributes:
        questions: Wordings of the question.
        lines: 'plain | detail' sentences without their period; the first one answers.
        asides: Questions to the user that fit at the end.

    """

    questions: tuple[str, ...]
    lines: tuple[str, ...]
    asides: tuple[str, ...]


def world_question(rng: random.Random) -> Draft:
    """Draw a question about the world, a joke, a rhyme or a riddle."""
    row = rng.choice(load_table("questions.jsonl", Question))
    content = Content(ordered(row.lines[0], row.lines[1:]), (*row.asides, rng.choice(MORE)))
    return Draft("world", rng.choice(row.questions), content)
