"""Requests: to make a list, suggest something, write a sentence or tell a story."""

from __future__ import annotations

import random
from typing import Literal

from pydantic.dataclasses import dataclass

from learner.corpus.compose import Content, ordered
from learner.corpus.entities import asked_entities, entities_of
from learner.corpus.kinds.draft import MORE, Draft
from learner.corpus.tables import STRICT, load_table, words
from learner.corpus.text import capitalise, join_and

_PLURALS = ("fish", "sheep")
_NUMBERS = (("two", 2), ("three", 3), ("some", 3), ("", 3), ("four", 4))
_LIST_PROMPTS = (
    "Make a list of {n} {noun}.",
    "Name {n} {noun}.",
    "List {n} {noun}.",
    "Give me {n} {noun}.",
    "Can you name {n} {noun}?",
    "Tell me {n} {noun}.",
)
_STORY_PROMPTS = (
    "Tell me a story about {}.",
    "Tell me a short story about {}.",
    "Write a story about {}.",
    "Can you tell me a story about {}?",
    "I want to hear a story about {}.",
)
_ANY_STORY_PROMPTS = (
    "Tell me a story.",
    "Tell me a short story.",
    "Can you tell me a story?",
    "Write a story.",
    "I want to hear a story.",
    "Do you know a story?",
)
_SENTENCE_PROMPTS = (
    "Write one sentence about {}.",
    "Write a sentence about {}.",
    "Say something about {}.",
    "Give me one sentence about {}.",
)
_POSSESSIVE = {"he": "his", "she": "her"}
_OBJECT = {"he": "him", "she": "her"}


@dataclass(frozen=True, slots=True, config=STRICT)
class ListItem:
    """An item of a list: its name, what it is like, and a detail."""

    name: str
    quality: str
    detail: str


@dataclass(frozen=True, slots=True, config=STRICT)
class ItemList:
    """Things of one kind, in `lists.jsonl`: what they are called, why to choose them, and five."""

    noun: str
    reason: str
    items: tuple[ListItem, ...]


@dataclass(frozen=True, slots=True, config=STRICT)
class Situation:
    """A situation in `situations.jsonl`.

    Attributes:
        prompts: Ways to ask for an idea.
        options: Four 'plain | detail' actions.

    """

    prompts: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True, config=STRICT)
class Person:
    """A person of the stories, in `people.jsonl`."""

    name: str
    pronoun: Literal["he", "she"]


@dataclass(frozen=True, slots=True, config=STRICT)
class Plot:
    """A very short story, in `plots.jsonl`.

    The slots are {name} and {friend} for people; {he}, {He}, {his}, {His} and {him} for the first
    one; {pet} for an animal, {food} for a meal and {place} for a place, each with its article.

    Attributes:
        summary: The story in one sentence.
        sentences: 'plain | detail' sentences without their period, in order.

    """

    summary: str
    sentences: tuple[str, ...]


def situations() -> tuple[Situation, ...]:
    """Return all situations, in the order of their table."""
    return load_table("situations.jsonl", Situation)


def people() -> tuple[Person, ...]:
    """Return the people of the stories, in the order of their table."""
    return load_table("people.jsonl", Person)


def _item_line(item: ListItem) -> str:
    """Return 'Apples are crisp | such as red ones' for an item."""
    name = item.name
    singular = name == "tennis" or name.endswith("ing")
    plural = not singular and not name.startswith("a ") and name.endswith(("s", *_PLURALS))
    return f"{capitalise(name)} {'are' if plural else 'is'} {item.quality} | {item.detail}"


def list_request(rng: random.Random) -> Draft:
    """Draw a request for a list of things of one kind."""
    row = rng.choice(load_table("lists.jsonl", ItemList))
    word, number = rng.choice(_NUMBERS)
    chosen = rng.sample(row.items, number)
    names = join_and([item.name for item in chosen])
    count = capitalise(word or "some")
    first = rng.choice(
        (
            f"{count} {row.noun} are {names}",
            f"{count} good {row.noun} are {names}",
            capitalise(names),
        )
    )
    prompt = " ".join(rng.choice(_LIST_PROMPTS).format(n=word, noun=row.noun).split())
    content = Content(
        ordered(f"{first} | because {row.reason}", [_item_line(item) for item in chosen]),
        ("Which one do you like best?", "Do you want to know more of them?", rng.choice(MORE)),
        register="request",
    )
    return Draft("list", prompt, content)


def suggestion_request(rng: random.Random) -> Draft:
    """Draw a request for an idea."""
    situation = rng.choice(situations())
    first, *others = rng.sample(situation.options, len(situation.options))
    lead = rng.choice(
        (
            f"You could {first}",
            capitalise(first),
            f"I suggest that you {first}",
            f"A good idea is to {first}",
        )
    )
    more = [
        f"You could also {others[0]}",
        f"Or you could {others[1]}",
        f"Another idea is to {others[2]}",
    ]
    questions = ("Do you like this idea?", "What do you like best?", "Do you want another idea?")
    return Draft(
        "suggestion",
        rng.choice(situation.prompts),
        Content(ordered(lead, more), questions, (), "request"),
    )


def sentence_request(rng: random.Random) -> Draft:
    """Draw a request for one sentence about an entity."""
    entity = rng.choice(asked_entities())
    line = entity.lead(rng, rng.choice(entity.category.attributes))
    prompt = rng.choice(_SENTENCE_PROMPTS).format(rng.choice((entity.one, entity.many)))
    questions = ("Do you want one more?", "Do you like it?", entity.fill(entity.category.asides[0]))
    return Draft("sentence", prompt, Content(((line,),), questions, (), "request"), entity)


def story_lines(rng: random.Random, pet: str | None = None) -> tuple[str, list[str]]:
    """Draw a story and return its summary and its sentences, 'plain | detail' without periods.

    Args:
        rng: Source of randomness.
        pet: Animal that the story is about ('a cat'); a random one if None.

    """
    plots = [
        plot for plot in load_table("plots.jsonl", Plot) if pet is None or "{pet}" in plot.summary
    ]
    plot = rng.choice(plots)
    person, friend = rng.sample(people(), 2)
    pronoun = person.pronoun
    slots = {
        "{name}": person.name,
        "{friend}": friend.name,
        "{he}": pronoun,
        "{He}": capitalise(pronoun),
        "{his}": _POSSESSIVE[pronoun],
        "{His}": capitalise(_POSSESSIVE[pronoun]),
        "{him}": _OBJECT[pronoun],
        "{pet}": pet or rng.choice(words("pets")),
        "{food}": rng.choice(words("meals")),
        "{place}": rng.choice(entities_of("place")).one,
    }

    def fill(line: str) -> str:
        for slot, word in slots.items():
            line = line.replace(slot, word)
        return line

    return fill(plot.summary), [fill(line) for line in plot.sentences]


def story_request(rng: random.Random) -> Draft:
    """Draw a request for a story, often about an animal."""
    pet = rng.choice(words("pets")) if rng.random() < 0.7 else None
    summary, lines = story_lines(rng, pet)
    by_length = [(summary,), (summary, lines[-1])]
    by_length += [(*lines[: n - 1], lines[-1]) for n in range(3, len(lines) + 1)]
    prompt = rng.choice(_STORY_PROMPTS).format(pet) if pet else rng.choice(_ANY_STORY_PROMPTS)
    questions = (
        "Did you like the story?",
        "Do you want to hear another story?",
        "Was that a good story?",
    )
    return Draft("story", prompt, Content(tuple(by_length), questions, (), "request"))
