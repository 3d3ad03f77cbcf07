"""The things the model knows facts about: entities, their categories and attributes."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache

from learner.corpus.attributes import Attribute, Category
from learner.corpus.categories import CATEGORIES
from learner.corpus.facts_animals import ANIMALS
from learner.corpus.facts_foods import FOODS
from learner.corpus.facts_home import AILMENTS, BODY, THINGS
from learner.corpus.facts_outdoors import NATURE, PLACES, WEATHER
from learner.corpus.facts_people import ACTIVITIES, JOBS, SUBJECTS
from learner.corpus.text import capitalise

TABLES: dict[str, tuple[tuple[str, ...], ...]] = {
    "animal": ANIMALS,
    "food": FOODS,
    "thing": THINGS,
    "body": BODY,
    "ailment": AILMENTS,
    "weather": WEATHER,
    "nature": NATURE,
    "place": PLACES,
    "job": JOBS,
    "activity": ACTIVITIES,
    "subject": SUBJECTS,
}
_SINGULAR = re.compile(r"\b(it|its)\b")  # a value that needs its subject in the singular


@dataclass(frozen=True, slots=True)
class Entity:
    """One thing with its facts.

    `one` is its name with the article it needs ('a cat', 'bread'), `many` its plural, and `values`
    holds one 'plain | detail' text for each attribute of `category`, in order.
    """

    one: str
    many: str
    category: Category
    values: tuple[str, ...]

    def fill(self, template: str) -> str:
        """`template` with this entity's names in it; `{v}` stays."""
        return (
            template.replace("{one}", self.one)
            .replace("{One}", capitalise(self.one))
            .replace("{many}", self.many)
            .replace("{Many}", capitalise(self.many))
        )

    def line(self, template: str, attribute: Attribute) -> str:
        """One sentence that states an attribute, 'plain | detail', without its period.

        A template in the plural gives way to one in the singular where the value needs it.
        """
        value = self.values[self.category.attributes.index(attribute)]
        if "any}" in template and _SINGULAR.search(value):
            template = attribute.leads[0]
        return self.fill(template).replace("{v}", value)

    def lead(self, rng: random.Random, attribute: Attribute, *, singular: bool = False) -> str:
        """`line` with one of the templates that name the entity.

        `singular`: not one in the plural, so that 'it' can follow.
        """
        leads = [lead for lead in attribute.leads if not singular or "any}" not in lead]
        return self.line(rng.choice(leads), attribute)


@cache
def entities() -> tuple[Entity, ...]:
    """All entities, in the order of the tables. ValueError if a row does not fit its category."""
    found: list[Entity] = []
    for category in CATEGORIES:
        for one, many, *values in TABLES[category.name]:
            if len(values) != len(category.attributes):
                raise ValueError(f"{one!r}: {len(values)} facts, not {len(category.attributes)}")
            found.append(Entity(one, many, category, tuple(values)))
    return tuple(found)
