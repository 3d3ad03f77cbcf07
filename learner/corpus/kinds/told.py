"""Questions about things that do not exist, of which the question itself tells what to answer."""

from __future__ import annotations

import random

from learner.corpus.compose import Content
from learner.corpus.entities import Entity, asked_entities
from learner.corpus.kinds.draft import MORE, Draft
from learner.corpus.kinds.facts import fact_prompt
from learner.corpus.kinds.unknown import article_for, made_up_word
from learner.corpus.tables import words
from learner.corpus.text import lower_first, plain_part

_INTRODUCTIONS = (
    "{}.",
    "{}.",
    "I read that {}.",
    "My friend says that {}.",
    "In my book, {}.",
    "Let us say that {}.",
    "In a game, {}.",
    "I tell you that {}.",
)
_ASIDES = (
    "Did you make up {one}?",
    "Who told you about {one}?",
    "What else is there about {one}?",
    "Do you know more about {one}?",
)


def invented(rng: random.Random) -> Entity:
    """Draw a thing that does not exist: a new name with the facts of a known thing."""
    known = rng.choice(asked_entities())
    name = made_up_word(rng) if rng.random() < 0.6 else rng.choice(words("unknown_nouns"))
    if known.category.name in ("country", "city"):
        name = name.title()
    if not known.countable:
        return Entity(name, name, known.category, known.values)
    return Entity(f"{article_for(name)} {name}", f"{name}s", known.category, known.values)


def told_question(rng: random.Random) -> Draft:
    """Draw one or two facts about an invented thing with a question that the first answers.

    Nobody can know the thing: the answer takes its name and the fact from the question.
    """
    entity = invented(rng)
    attributes = rng.sample(entity.category.attributes, 2)
    asked = attributes[0]
    told = attributes[: rng.randint(1, 2)]
    rng.shuffle(told)
    facts = [plain_part(entity.lead(rng, each)) for each in told]
    introduction = rng.choice(_INTRODUCTIONS)
    first = facts[0] if introduction.startswith("{}") else lower_first(facts[0])
    sentences = [introduction.format(first), *(f"{fact}." for fact in facts[1:])]
    question = asked.again if rng.random() < 0.2 else fact_prompt(rng, entity, asked)
    lines: list[tuple[str, ...]] = [(plain_part(entity.lead(rng, asked)),)]
    if len(told) > 1:
        other = next(each for each in told if each is not asked)
        first_line = plain_part(entity.lead(rng, asked, singular=True))
        lines.append((first_line, plain_part(entity.lead(rng, other, singular=True))))
    questions = (entity.fill(rng.choice(_ASIDES)), *MORE)
    return Draft("told", " ".join([*sentences, question]), Content(tuple(lines), questions))
