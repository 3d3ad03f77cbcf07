"""Categories of things, and the attributes that are asked for and stated about them.

In the templates `{one}` is the name with its article, `{many}` the plural and `{v}` the value of
the attribute. A value always ends its sentence, so that a detail can follow it.
"""

from functools import cache

from pydantic.dataclasses import dataclass

from learner.corpus.tables import STRICT, load_table
from learner.errors import DataUnusable


@dataclass(frozen=True, slots=True, config=STRICT)
class Attribute:
    """How one attribute of a category is asked for and stated.

    Attributes:
        category: Name of the category.
        key: Name of the attribute in the tables of facts.
        questions: Questions that name the thing.
        leads: Sentences that state the fact and name the thing.
        follow: Sentence that states the fact with a pronoun.
        offer: Completion of 'Would you like to know ...'.
        again: Question with a pronoun, once the thing is known ('What does it eat?').

    """

    category: str
    key: str
    questions: tuple[str, ...]
    leads: tuple[str, ...]
    follow: str
    offer: str
    again: str


@dataclass(frozen=True, slots=True, config=STRICT)
class _CategoryRow:
    name: str
    asides: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Category:
    """A kind of thing.

    Attributes:
        name: Name of the category, such as 'animal'.
        attributes: Attributes that every thing of the category has; the definition comes first.
        asides: Small questions to the user about a thing.

    """

    name: str
    attributes: tuple[Attribute, ...]
    asides: tuple[str, ...]


@cache
def categories() -> tuple[Category, ...]:
    """Return all categories with their attributes, in the order of their tables.

    Raises:
        DataUnusable: An attribute belongs to no category.

    """
    rows = load_table("categories.jsonl", _CategoryRow)
    attributes = load_table("attributes.jsonl", Attribute)
    names = {row.name for row in rows}
    for number, attribute in enumerate(attributes, start=1):
        if attribute.category not in names:
            raise DataUnusable(
                f"attributes.jsonl, line {number}: there is no category {attribute.category!r}"
            )
    return tuple(
        Category(
            name=row.name,
            attributes=tuple(each for each in attributes if each.category == row.name),
            asides=row.asides,
        )
        for row in rows
    )
