"""Questions that have an answer: facts, how-tos, differences; each with what its answer says."""

from __future__ import annotations

import random
from dataclasses import dataclass

from learner.corpus.attributes import Attribute
from learner.corpus.compose import Content, ordered
from learner.corpus.entities import Entity, entities
from learner.corpus.howtos import HOWTOS
from learner.corpus.text import capitalise, lower_first, plain_part

MORE = ("What else would you like to know?", "Can I help you with something else?")
_OFFERS = ("Would you like to know {}?", "Shall I tell you {}?", "Do you want to know {}?")
_ABOUT_HOWTO = (
    "Do you have all that you need?",
    "Do you want to try it today?",
    "Did you ever try it?",
    "Is there something else you want to do?",
    "Do you want to know more?",
)
_HOWTO_PROMPTS = (
    "How do I {}?",
    "How can I {}?",
    "Tell me how to {}.",
    "What is the best way to {}?",
    "I want to {}. What should I do?",
    "Can you help me to {}?",
    "Teach me how to {}.",
)
_NAMED_AGAIN = 0.3  # so that longer answers keep to their subject
_LIKEABLE = ("animal", "food", "weather", "nature", "place", "activity", "subject")
_LIKE_PROMPTS = (
    "Do you like {many}?",
    "What do you think about {many}?",
    "I like {many}.",
    "I love {many}!",
)
_ORDER = {
    1: ("First,",),
    2: ("First,", "Then,"),
    3: ("First,", "Then,", "Last,"),
    4: ("First,", "Then,", "After that,", "Last,"),
}


@dataclass(frozen=True, slots=True)
class Draft:
    """A question and what an answer to it says. `topic` is set where more can be asked about it."""

    kind: str
    prompt: str
    content: Content
    topic: Entity | None = None
    attribute: Attribute | None = None


def fact_content(rng: random.Random, entity: Entity, attribute: Attribute) -> Content:
    """One attribute of an entity, then its other ones in any order (the definition early)."""
    others = [other for other in entity.category.attributes if other is not attribute]
    rng.shuffle(others)
    others.sort(key=lambda other: other.key != "what" or rng.random() < 0.4)
    by_pronoun = entity.category.name != "job" and rng.random() < 0.08
    pronoun = entity.line(attribute.follow, attribute)
    alone = pronoun if by_pronoun else entity.lead(rng, attribute)
    first = entity.lead(rng, attribute, singular=True)
    follow = [
        entity.lead(rng, other, singular=True)
        if rng.random() < _NAMED_AGAIN
        else entity.line(other.follow, other)
        for other in others
    ]
    last = entity.fill(others[-1].offer)
    return Content(
        ((alone,), *ordered(first, follow)[1:]),
        (*(entity.fill(aside) for aside in entity.category.asides), rng.choice(MORE)),
        tuple(offer.format(last) for offer in _OFFERS),
        "health" if entity.category.name == "ailment" else "answer",
    )


def fact(rng: random.Random) -> Draft:
    """A question about an attribute of an entity."""
    entity = rng.choice(entities())
    attribute = rng.choice(entity.category.attributes)
    prompt = entity.fill(rng.choice(attribute.questions))
    return Draft("fact", prompt, fact_content(rng, entity, attribute), entity, attribute)


def opinion(rng: random.Random) -> Draft:
    """A question whether the assistant likes something, answered with facts about it."""
    entity = rng.choice([each for each in entities() if each.category.name in _LIKEABLE])
    first = rng.choice(("Yes, I like {many}", "I like to talk about {many}"))
    attributes = rng.sample(entity.category.attributes, 4)
    lines = [entity.lead(rng, attributes[0], singular=True)]
    lines += [entity.line(attribute.follow, attribute) for attribute in attributes[1:]]
    prompt = entity.fill(rng.choice(_LIKE_PROMPTS))
    questions = (entity.fill(entity.category.asides[1]), "What else do you like?", *MORE)
    content = Content(ordered(entity.fill(first), lines), questions, register="chat")
    return Draft("opinion", prompt, content, entity)


def _grouped(steps: list[str], groups: int) -> list[str]:
    """The steps joined to that many sentences, each with the detail of its last step."""
    size, extra = divmod(len(steps), groups)
    sentences: list[str] = []
    at = 0
    for group in range(groups):
        end = at + size + (group < extra)
        joined = " and ".join([*map(plain_part, steps[at : end - 1]), steps[end - 1]])
        sentences.append(f"{_ORDER[groups][group]} {joined}")
        at = end
    return sentences


def howto_lines(row: tuple[str, ...], summary: str) -> tuple[tuple[str, ...], ...]:
    """The sentences of a how-to for each length: a summary, or all the steps, then the tip."""
    _, _, *steps, tip = row
    grouped = [tuple(_grouped(steps, count)) for count in range(2, len(steps) + 1)]
    return ((summary,), *grouped, (*grouped[-1], capitalise(tip)))


def howto(rng: random.Random) -> Draft:
    """A question how to do something."""
    row = rng.choice(HOWTOS)
    goal = row[0]
    yours = goal.replace("my ", "your ")
    summary = rng.choice((f"To {yours}, {row[1]}", capitalise(row[1]), f"You should {row[1]}"))
    content = Content(howto_lines(row, summary), (*_ABOUT_HOWTO, rng.choice(MORE)), (), "request")
    return Draft("howto", rng.choice(_HOWTO_PROMPTS).format(goal), content)


def contrast(rng: random.Random, one: Entity, other: Entity, attribute: Attribute) -> str:
    """'A cat eats meat, but a cow eats grass', with the second one's detail after a bar."""
    template = rng.choice([lead for lead in attribute.leads if "simple words" not in lead])
    first = plain_part(one.line(template, attribute))
    return f"{first}, but {lower_first(other.line(template, attribute))}"


def difference(rng: random.Random) -> Draft:
    """A question about the difference of two entities of a kind."""
    one = rng.choice(entities())
    alike = [entity for entity in entities() if entity.category is one.category]
    other = rng.choice([entity for entity in alike if entity is not one])
    attributes = rng.sample(one.category.attributes, 3)
    lines = [contrast(rng, one, other, attribute) for attribute in attributes]
    template = rng.choice(
        (
            "What is the difference between {} and {}?",
            "Compare {} and {}.",
            "How are {} and {} different?",
        )
    )
    asides = tuple(entity.fill(entity.category.asides[0]) for entity in (one, other))
    prompt = template.format(one.one, other.one)
    return Draft("difference", prompt, Content(ordered(lines[0], lines[1:]), (*asides, *MORE)))
