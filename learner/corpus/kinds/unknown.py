"""Questions without a known answer, which the assistant admits."""

from __future__ import annotations

import dataclasses
import random
import re

from pydantic.dataclasses import dataclass

from learner.corpus.compose import Content, ordered
from learner.corpus.entities import asked_entities
from learner.corpus.kinds.draft import Draft
from learner.corpus.tables import STRICT, load_table, wordings, words
from learner.corpus.text import pick_weighted

_ABOUT = (
    ("noun", 0.44),
    ("person", 0.15),
    ("place", 0.15),
    ("known", 0.1),
    ("fixed", 0.09),
    ("math", 0.07),
)
_NAMED_REPLY_RATE = 0.7  # share of the replies that repeat what was asked about
_ONE = ("a {x}", "{x}")  # what stands in a wording for the thing with its article
_WORDS = {"noun": "unknown_nouns", "person": "person_names", "place": "place_names"}


@dataclass(frozen=True, slots=True, config=STRICT)
class UnknownQuestions:
    """Questions in `unknown_questions.jsonl`.

    Attributes:
        about: 'noun', 'person' or 'place' with the slots {x} and {y} for words, 'known' with {one}
            and {many} for an entity of which this is not known, 'math' with {a} and {b} for
            numbers, or 'fixed' without slots.
        questions: The questions.

    """

    about: str
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True, config=STRICT)
class UnknownReplies:
    """Parts of the replies, in `unknown_replies.jsonl`.

    Attributes:
        part: 'cores' (first sentences), 'named_cores' (first sentences with the slot {x} for what
            was asked about), 'details' (of a core), 'more' ('plain | detail' sentences that follow)
            or 'questions' (at the end).
        texts: Texts without their final periods.

    """

    part: str
    texts: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class _Asked:
    """A question, and the name of what it asks about with its article; "" if it has none."""

    prompt: str
    named: str


def _questions(about: str) -> tuple[str, ...]:
    rows = load_table("unknown_questions.jsonl", UnknownQuestions)
    return {row.about: row.questions for row in rows}[about]


def made_up_word(rng: random.Random) -> str:
    """Draw a word of syllables, or of the halves of two words, that most likely means nothing."""
    way = rng.random()
    if way < 0.35:
        return "".join(rng.choices(words("syllables"), k=rng.choice((2, 2, 3))))
    if way < 0.6:
        first, last = (word.split()[-1] for word in rng.sample(words("unknown_nouns"), 2))
        return first[: rng.randint(2, max(2, len(first) - 1))] + last[len(last) // 2 :]
    syllables = [
        "".join(rng.choice(words(part)) for part in ("onsets", "vowels", "codas"))
        for _ in range(rng.choice((2, 2, 3)))
    ]
    return "".join(syllables)


def article_for(word: str) -> str:
    """Return 'a' or 'an', by the first letter of a word."""
    return "an" if word[0] in "aeiou" else "a"


def _compound(rng: random.Random) -> str:
    """Draw two words of which each may be known, but not together: 'bridge opera'."""
    first = rng.choice((*words("unknown_nouns"), *(each.name for each in asked_entities())))
    return f"{first} {rng.choice(words('unknown_nouns'))}"


def _fill(rng: random.Random, template: str, known: tuple[str, ...], *, is_name: bool) -> _Asked:
    made_up = rng.random() < 0.4
    first, second = (made_up_word(rng), made_up_word(rng)) if made_up else rng.sample(known, 2)
    if not is_name and rng.random() < 0.15:
        first = _compound(rng)
    if is_name and made_up:
        first, second = first.title(), second.title()
    with_article = re.search(r"\ba \{x\}", template) is not None
    article = article_for(first)
    template = re.sub(r"\ba \{x\}", f"{article} {{x}}", template)
    named = f"{article} {first}" if with_article else first
    return _Asked(template.replace("{x}", first).replace("{y}", second), named)


def unknown_prompt(rng: random.Random) -> _Asked:
    """Draw a question without a known answer, from a wide variety of words."""
    about = pick_weighted(rng, _ABOUT)
    template = rng.choice(_questions(about))
    if about == "noun" and rng.random() < 0.3:
        template = rng.choice(wordings("definitions")).replace("{one}", rng.choice(_ONE))
        template = template.replace("{many}", "{x}").replace("{name}", "{x}")
    if about == "math":
        numbers = {"a": rng.randint(21, 400), "b": rng.randint(3, 99)}
        return _Asked(template.format(**numbers), "")
    if about == "fixed":
        return _Asked(template, "")
    if about == "known":
        entity = rng.choice([each for each in asked_entities() if each.countable])
        return _Asked(entity.fill(template), "")
    return _fill(rng, template, words(_WORDS[about]), is_name=about != "noun")


def unknown_question(rng: random.Random) -> Draft:
    """Draw a question without a known answer, and the admission of that."""
    replies = {row.part: row.texts for row in load_table("unknown_replies.jsonl", UnknownReplies)}
    asked = unknown_prompt(rng)
    core = rng.choice(replies["cores"])
    if asked.named and rng.random() < _NAMED_REPLY_RATE:
        core = rng.choice(replies["named_cores"]).replace("{x}", asked.named)
    core = f"{core} | {rng.choice(replies['details'])}"
    lines = ordered(core, rng.sample(replies["more"], 4))
    content = Content(lines, replies["questions"], register="unknown")
    return Draft("unknown", asked.prompt, content)
