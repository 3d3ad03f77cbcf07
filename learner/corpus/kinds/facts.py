"""Questions about the facts of things, what the assistant thinks of them, and how they differ."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

from learner.corpus.categories import Attribute
from learner.corpus.compose import Content, ordered
from learner.corpus.entities import Entity, asked_entities
from learner.corpus.kinds.draft import MORE, Draft
from learner.corpus.tables import wordings
from learner.corpus.text import lower_first, plain_part

_OFFERS = ("Would you like to know {}?", "Shall I tell you {}?", "Do you want to know {}?")
_DEFINITION_RATE = 0.4  # share of the questions about an entity that ask what it is
_NAMED_AGAIN = 0.3  # share of later sentences with the name: long answers keep to their subject
_LIKEABLE = (
    *("animal", "food", "weather", "nature", "place", "activity", "subject"),
    *("instrument", "plant", "color", "country", "city", "vehicle"),
)


def fact_content(rng: random.Random, entity: Entity, attribute: Attribute) -> Content:
    """Return an attribute of an entity, then the others in random order, the definition early."""
    others = [other for other in entity.category.attributes if other is not attribute]
    rng.shuffle(others)
    others.sort(key=lambda other: other.key != "what" or rng.random() < 0.4)
    uses_pronoun = entity.category.name != "job" and rng.random() < 0.08
    pronoun = entity.line(attribute.follow, attribute)
    alone = pronoun if uses_pronoun else entity.lead(rng, attribute)
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


def fact_prompt(rng: random.Random, entity: Entity, attribute: Attribute) -> str:
    """Draw a question about an attribute of an entity, in one of many wordings."""
    direct: Sequence[str] = attribute.questions
    if attribute.key == "what" and (not direct or rng.random() < 0.8):
        direct = wordings("usual_definitions" if rng.random() < 0.45 else "definitions")
    elif rng.random() < 0.3:
        return rng.choice(wordings("indirect")).format(entity.fill(attribute.offer))
    return entity.fill(rng.choice([each for each in direct if entity.fits(each)]))


def fact_question(rng: random.Random) -> Draft:
    """Draw a question about an attribute of an entity, the definition most often."""
    entity = rng.choice(asked_entities())
    what, *others = entity.category.attributes
    attribute = what if rng.random() < _DEFINITION_RATE else rng.choice(others)
    prompt = fact_prompt(rng, entity, attribute)
    return Draft("fact", prompt, fact_content(rng, entity, attribute), entity, attribute)


@cache
def _likeable() -> tuple[Entity, ...]:
    return tuple(entity for entity in asked_entities() if entity.category.name in _LIKEABLE)


def opinion_question(rng: random.Random) -> Draft:
    """Draw a question whether the assistant likes something, answered with facts about it."""
    entity = rng.choice(_likeable())
    first = rng.choice(("Yes, I like {many}", "I like to talk about {many}"))
    attributes = rng.sample(entity.category.attributes, 4)
    lines = [entity.lead(rng, attributes[0], singular=True)]
    lines += [entity.line(attribute.follow, attribute) for attribute in attributes[1:]]
    prompt = entity.fill(rng.choice(wordings("opinions")))
    questions = (entity.fill(entity.category.asides[1]), "What else do you like?", *MORE)
    content = Content(ordered(entity.fill(first), lines), questions, register="chat")
    return Draft("opinion", prompt, content, entity)


def contrast(rng: random.Random, one: Entity, other: Entity, attribute: Attribute) -> str:
    """Return 'A cat eats meat, but a cow eats grass', with the second detail after a bar."""
    template = rng.choice([lead for lead in attribute.leads if "simple words" not in lead])
    first = plain_part(one.line(template, attribute))
    return f"{first}, but {lower_first(other.line(template, attribute))}"


def difference_question(rng: random.Random) -> Draft:
    """Draw a question about the difference between two entities of a category."""
    one = rng.choice(asked_entities())
    alike = [each for each in asked_entities() if each.category is one.category]
    other = rng.choice([each for each in alike if each is not one])
    attributes = rng.sample(one.category.attributes, 3)
    lines = [contrast(rng, one, other, attribute) for attribute in attributes]
    prompt = rng.choice(wordings("differences")).format(one.one, other.one)
    asides = tuple(entity.fill(entity.category.asides[0]) for entity in (one, other))
    return Draft("difference", prompt, Content(ordered(lines[0], lines[1:]), (*asides, *MORE)))
