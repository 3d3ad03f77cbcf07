"""The things that the corpus states facts about."""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Final

import pydantic.dataclasses

from learner.corpus.categories import Attribute, Category, categories
from learner.corpus.tables import STRICT, load_table
from learner.corpus.text import capitalise
from learner.errors import DataUnusable

HELD_OUT_ONE_IN: Final = 30
_PLURAL_VERB = re.compile(r"\b(are|do|have) \{many\}")
_SINGULAR = re.compile(r"\b(it|its)\b")  # a value that needs its subject in the singular


@pydantic.dataclasses.dataclass(frozen=True, slots=True, config=STRICT)
class Fact:
    """A thing in one of the tables `facts/<category>.jsonl`.

    Attributes:
        one: Name with the article that it needs ('a cat', 'bread').
        many: Plural of the name.
        values: 'plain | detail' text for each attribute key, in the order of the attributes.

    """

    one: str
    many: str
    values: dict[str, str]


@dataclass(frozen=True, slots=True)
class Entity:
    """A thing with its facts.

    Attributes:
        one: Name with the article that it needs ('a cat', 'bread').
        many: Plural of the name.
        category: Category of the thing.
        values: One 'plain | detail' text for each attribute of the category, in order.

    """

    one: str
    many: str
    category: Category
    values: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name without an article."""
        return self.one.removeprefix("a ").removeprefix("an ").removeprefix("the ")

    @property
    def countable(self) -> bool:
        """Whether the thing has a plural."""
        return self.one.startswith(("a ", "an "))

    @property
    def held_out(self) -> bool:
        """Whether no demonstration asks about the thing; articles state its facts.

        It shows whether the model can answer questions about what it has only read.
        """
        return zlib.crc32(self.one.encode()) % HELD_OUT_ONE_IN == 0

    def fits(self, question: str) -> bool:
        """Return whether a question can be asked: one in the plural needs a countable thing."""
        return self.countable or not ("{many}" in question and _PLURAL_VERB.search(question))

    def fill(self, template: str) -> str:
        """Return the template with this entity's names filled in; `{v}` is left."""
        return (
            template.replace("{one}", self.one)
            .replace("{name}", self.name)
            .replace("{One}", capitalise(self.one))
            .replace("{many}", self.many)
            .replace("{Many}", capitalise(self.many))
        )

    def line(self, template: str, attribute: Attribute) -> str:
        """Return a 'plain | detail' sentence that states an attribute, without its period.

        If the value needs a singular subject, a template in the plural is replaced by the
        attribute's first lead.
        """
        value = self.values[self.category.attributes.index(attribute)]
        if "any}" in template and (not self.countable or _SINGULAR.search(value)):
            template = attribute.leads[0]
        return self.fill(template).replace("{v}", value)

    def lead(self, rng: random.Random, attribute: Attribute, *, singular: bool = False) -> str:
        """Return `line` with a random template that names the entity.

        Args:
            rng: Source of randomness.
            attribute: Attribute to state.
            singular: Use no template in the plural, so that 'it' can follow.

        """
        leads = [lead for lead in attribute.leads if not singular or "any}" not in lead]
        return self.line(rng.choice(leads), attribute)


@cache
def entities() -> tuple[Entity, ...]:
    """Return all entities, in the order of the tables.

    Raises:
        DataUnusable: A row's values do not match the attributes of its category.

    """
    found: list[Entity] = []
    for category in categories():
        table = f"facts/{category.name}.jsonl"
        keys = [attribute.key for attribute in category.attributes]
        for number, fact in enumerate(load_table(table, Fact), start=1):
            if list(fact.values) != keys:
                raise DataUnusable(f"{table}, line {number}: the values must be {', '.join(keys)}")
            found.append(Entity(fact.one, fact.many, category, tuple(fact.values.values())))
    return tuple(found)


@cache
def entities_of(category: str) -> tuple[Entity, ...]:
    """Return the entities of one category, in the order of its table."""
    return tuple(entity for entity in entities() if entity.category.name == category)


@cache
def asked_entities() -> tuple[Entity, ...]:
    """Return the entities that demonstrations ask about: all but those held out."""
    return tuple(entity for entity in entities() if not entity.held_out)
