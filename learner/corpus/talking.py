"""Small talk and questions that have no known answer."""

from __future__ import annotations

import random

from learner.corpus.answers import Draft
from learner.corpus.compose import Content, ordered
from learner.corpus.replies_unknown import BODY, CORE_DETAILS, CORES, QUESTIONS
from learner.corpus.smalltalk_feelings import FEELINGS
from learner.corpus.smalltalk_greetings import GREETINGS, Row
from learner.corpus.unknown_words import (
    ABOUT_NOUN,
    ABOUT_PERSON,
    ABOUT_PLACE,
    FIXED,
    MATH,
    NOUNS,
    PERSON_NAMES,
    PLACE_NAMES,
    SYLLABLES,
)

_REGISTERS = {"thanks": "thanks", "complaint": "care", "happy": "chat", "birthday": "chat"}
_CHEERFUL = {name for name, *_ in GREETINGS}


def small_talk_content(rng: random.Random, row: Row) -> Content:
    """What the assistant says to one kind of small talk."""
    name, _, cores, more, questions = row
    register = _REGISTERS.get(name, "chat" if name in _CHEERFUL else "care")
    lines = more.split(" // ")
    return Content(
        ordered(rng.choice(cores.split(" / ")), rng.sample(lines, len(lines))),
        tuple(questions.split(" / ")),
        register=register,
    )


def small_talk(rng: random.Random, name: str | None = None) -> Draft:
    """Something people say in small talk; `name` chooses what ('thanks'), else anything."""
    rows = GREETINGS + FEELINGS
    row = rng.choice([row for row in rows if name in (None, row[0])])
    return Draft("talk", rng.choice(row[1].split(" / ")), small_talk_content(rng, row))


def made_up_word(rng: random.Random) -> str:
    """A word of two or three syllables that most likely means nothing."""
    return "".join(rng.choices(SYLLABLES, k=rng.choice((2, 2, 3))))


def _fill(rng: random.Random, template: str, words: tuple[str, ...], *, name: bool) -> str:
    made_up = rng.random() < 0.35
    first, second = (made_up_word(rng), made_up_word(rng)) if made_up else rng.sample(words, 2)
    if name:
        first, second = first.title(), second.title()
    if first[0] in "aeiou":
        template = template.replace(" a {x}", " an {x}")
    return template.replace("{x}", first).replace("{y}", second)


def unknown_prompt(rng: random.Random) -> str:
    """A question without a known answer, of a wide variety of words."""
    kind = rng.choices(("noun", "person", "place", "fixed", "math"), (0.4, 0.18, 0.2, 0.12, 0.1))[0]
    if kind == "fixed":
        return rng.choice(FIXED)
    if kind == "math":
        numbers = {"a": rng.randint(2, 200), "b": rng.randint(2, 99)}
        return rng.choice(MATH).format(**numbers)
    if kind == "noun":
        return _fill(rng, rng.choice(ABOUT_NOUN), NOUNS, name=False)
    if kind == "person":
        return _fill(rng, rng.choice(ABOUT_PERSON), PERSON_NAMES, name=True)
    return _fill(rng, rng.choice(ABOUT_PLACE), PLACE_NAMES, name=True)


def unknown(rng: random.Random) -> Draft:
    """A question without a known answer, to which the assistant says so."""
    core = f"{rng.choice(CORES)} | {rng.choice(CORE_DETAILS)}"
    content = Content(ordered(core, rng.sample(BODY, 4)), QUESTIONS, register="unknown")
    return Draft("unknown", unknown_prompt(rng), content)
