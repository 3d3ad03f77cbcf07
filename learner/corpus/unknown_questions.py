"""Questions without a known answer, which the assistant admits."""

from __future__ import annotations

import random

from pydantic.dataclasses import dataclass

from learner.corpus.answers import Draft
from learner.corpus.compose import Content, ordered
from learner.corpus.tables import STRICT, load_table, words
from learner.corpus.text import pick_weighted

_ABOUT = (("noun", 0.4), ("person", 0.18), ("place", 0.2), ("fixed", 0.12), ("math", 0.1))
_WORDS = {"noun": "unknown_nouns", "person": "person_names", "place": "place_names"}


@dataclass(frozen=True, slots=True, config=STRICT)
class UnknownQuestions:
    """Questions in `unknown_questions.jsonl`.

    Attributes:
        about: 'noun', 'person' or 'place' with the slots {x} and {y} for words, 'math' with {a}
            and {b} for numbers, or 'fixed' without slots.
        questions: The questions.

    """

    about: str
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True, config=STRICT)
class UnknownReplies:
    """Parts of the replies, in `unknown_replies.jsonl`.

    Attributes:
        part: 'cores' (first sentences), 'details' (of a core), 'more' ('plain | detail' sentences
            that follow) or 'questions' (at the end).
        texts: Texts without their final periods.

    """

    part: str
    texts: tuple[str, ...]


def _questions(about: str) -> tuple[str, ...]:
    rows = load_table("unknown_questions.jsonl", UnknownQuestions)
    return {row.about: row.questions for row in rows}[about]


def made_up_word(rng: random.Random) -> str:
    """Draw a word of two or three syllables that most likely means nothing."""
    return "".join(rng.choices(words("syllables"), k=rng.choice((2, 2, 3))))


def _fill(rng: random.Random, template: str, known: tuple[str, ...], *, is_name: bool) -> str:
    made_up = rng.random() < 0.35
    first, second = (made_up_word(rng), made_up_word(rng)) if made_up else rng.sample(known, 2)
    if is_name:
        first, second = first.title(), second.title()
    if first[0] in "aeiou":
        template = template.replace(" a {x}", " an {x}")
    return template.replace("{x}", first).replace("{y}", second)


def unknown_prompt(rng: random.Random) -> str:
    """Draw a question without a known answer, from a wide variety of words."""
    about = pick_weighted(rng, _ABOUT)
    if about == "math":
        numbers = {"a": rng.randint(2, 200), "b": rng.randint(2, 99)}
        return rng.choice(_questions(about)).format(**numbers)
    template = rng.choice(_questions(about))
    if about == "fixed":
        return template
    return _fill(rng, template, words(_WORDS[about]), is_name=about != "noun")


def unknown_question(rng: random.Random) -> Draft:
    """Draw a question without a known answer, and the admission of that."""
    replies = {row.part: row.texts for row in load_table("unknown_replies.jsonl", UnknownReplies)}
    core = f"{rng.choice(replies['cores'])} | {rng.choice(replies['details'])}"
    lines = ordered(core, rng.sample(replies["more"], 4))
    content = Content(lines, replies["questions"], register="unknown")
    return Draft("unknown", unknown_prompt(rng), content)
