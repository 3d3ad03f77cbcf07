"""Small talk: greetings, thanks, feelings, and questions about the assistant called Plaudit."""

from __future__ import annotations

import random

from pydantic.dataclasses import dataclass

from learner.corpus.compose import Content, ordered
from learner.corpus.kinds.draft import Draft
from learner.corpus.tables import STRICT, load_table


@dataclass(frozen=True, slots=True, config=STRICT)
class SmallTalk:
    """One kind of small talk, in `small_talk.jsonl`.

    Attributes:
        name: Name of the kind, such as 'thanks'.
        register: Register of the answers.
        prompts: What users say.
        openings: First sentences of an answer.
        more: Further 'plain | detail' sentences, without their final period.
        questions: Questions at the end of an answer.

    """

    name: str
    register: str
    prompts: tuple[str, ...]
    openings: tuple[str, ...]
    more: tuple[str, ...]
    questions: tuple[str, ...]


def small_talk(rng: random.Random, name: str | None = None) -> Draft:
    """Draw something that people say in small talk.

    Args:
        rng: Source of randomness.
        name: Kind of small talk; any kind if None.

    """
    rows = load_table("small_talk.jsonl", SmallTalk)
    row = rng.choice([row for row in rows if name in (None, row.name)])
    prompt = rng.choice(row.prompts)
    lines = ordered(rng.choice(row.openings), rng.sample(row.more, len(row.more)))
    return Draft("talk", prompt, Content(lines, row.questions, register=row.register))
