"""Generate documents for pre-training: articles, dialogues, stories, how-tos, comparisons."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Final

from learner.corpus.demos import as_typed, demonstrate, draw_draft
from learner.corpus.entities import Entity, asked_entities, entities, entities_of
from learner.corpus.kinds.draft import Draft
from learner.corpus.kinds.facts import contrast, fact_content, fact_prompt
from learner.corpus.kinds.howtos import howto_lines, howtos
from learner.corpus.kinds.requests import people, situations, story_lines
from learner.corpus.kinds.sums import sum_text
from learner.corpus.text import capitalise, plain_part, with_detail

_MORE_HELD_OUT: Final = 5  # articles about a thing that nothing else tells of, for one of another


def _paragraph(rng: random.Random, lines: list[str]) -> str:
    """Join the lines to one text, each at random with or without its detail."""
    sentences = [with_detail(line, detailed=rng.random() < 0.6) for line in lines]
    return " ".join(each if each.endswith((".", "!", "?")) else f"{each}." for each in sentences)


@cache
def _subjects() -> tuple[Entity, ...]:
    """Return all entities, those more often about which a model reads nothing but articles."""
    rare = [each for each in entities() if each.held_out]
    return (*entities(), *rare * (_MORE_HELD_OUT - 1))


def _article(rng: random.Random) -> str:
    """Draw a paragraph of facts about one entity, in half of them with its name in each."""
    entity = rng.choice(_subjects())
    attributes = list(entity.category.attributes)
    if rng.random() < 0.6:
        rng.shuffle(attributes)
    attributes = attributes[: rng.randint(2, len(attributes))]
    if rng.random() < 0.5:
        return _paragraph(rng, [entity.lead(rng, attribute) for attribute in attributes])
    lines = [
        entity.lead(rng, attribute, singular=True)
        if at == 0 or rng.random() < 0.6
        else entity.line(attribute.follow, attribute)
        for at, attribute in enumerate(attributes)
    ]
    return _paragraph(rng, lines)


def _plurals(rng: random.Random) -> str:
    """Draw the singular and the plural of several things."""
    countable = [each for each in _subjects() if each.countable]
    chosen = [rng.choice(countable) for _ in range(6)]
    forms = ("One {name}, two {many}", "{Many} are more than one {name}", "{One} and more {many}")
    return _paragraph(rng, [each.fill(rng.choice(forms)) for each in chosen])


def _sums(rng: random.Random) -> str:
    """Draw several sums and differences."""
    return _paragraph(rng, [sum_text(rng) for _ in range(rng.randint(6, 14))])


def _comparison(rng: random.Random) -> str:
    """Draw a paragraph that compares one attribute of several entities of a category."""
    first = rng.choice(entities())
    alike = entities_of(first.category.name)
    attribute = rng.choice(first.category.attributes)
    chosen = rng.sample(alike, min(4, len(alike)))
    lines = [contrast(rng, chosen[0], chosen[1], attribute)]
    lines += [entity.lead(rng, attribute) for entity in chosen[2:]]
    return _paragraph(rng, lines)


def _story(rng: random.Random) -> str:
    """Draw a story, or sometimes only its summary."""
    summary, lines = story_lines(rng)
    if rng.random() < 0.2:
        lines = [summary]
    return _paragraph(rng, lines)


def _instructions(rng: random.Random) -> str:
    """Draw instructions for one goal."""
    howto = rng.choice(howtos())
    goal = howto.answer_goal
    lengths = howto_lines(howto, f"To {goal}, {howto.summary}")
    return _paragraph(rng, [f"This is how to {goal}", *rng.choice(lengths)])


def _advice(rng: random.Random) -> str:
    """Draw a person who asks for an idea, and two ideas."""
    situation = rng.choice(situations())
    person = rng.choice(people())
    first, second = rng.sample(situation.options, 2)
    return f"{person.name} asked: {situation.prompts[0]} " + _paragraph(
        rng, [f"One idea is to {first}", f"You could also {second}"]
    )


def _quiz(rng: random.Random) -> str:
    """Draw several questions of any kind, each with its shortest answer.

    A model that reads them learns to look up the answer that a question asks for.
    """
    turns: list[str] = []
    for _ in range(rng.randint(2, 4)):
        draft = draw_draft(rng)
        while draft.kind in ("unknown", "told"):
            draft = draw_draft(rng)
        turns.append(
            f"{as_typed(rng, draft.prompt)}\n{_paragraph(rng, [draft.content.by_length[0][0]])}"
        )
    return "\n".join(turns)


def _person_asks(rng: random.Random) -> str:
    """Draw a story in which a person asks for a fact."""
    person, friend = rng.sample(people(), 2)
    name, pronoun = person.name, person.pronoun
    entity: Entity = rng.choice(asked_entities())
    attribute = rng.choice(entity.category.attributes)
    question = fact_prompt(rng, entity, attribute)
    line = plain_part(entity.lead(rng, attribute))
    end = rng.choice(
        (
            f"Now {name} knows it",
            f"{capitalise(pronoun)} was glad to know it",
            f"{name} said thank you",
            f"Then {pronoun} told it to a friend",
        )
    )
    return f"{name} asked {friend.name}: {question} {friend.name} said: {line}. {end}."


def _dialogue(rng: random.Random) -> str:
    """Draw a dialogue in which one person asks and another answers, one line each."""
    name, friend = (person.name for person in rng.sample(people(), 2))
    draft = draw_draft(rng)
    if draft.kind in ("talk", "told", "unknown"):
        friend = "Plaudit"
    drafts = [draft]
    if draft.topic is not None:
        others = [each for each in draft.topic.category.attributes if each is not draft.attribute]
        attribute = rng.choice(others)
        content = fact_content(rng, draft.topic, attribute)
        drafts.append(Draft("fact", attribute.again, content))
    lines: list[str] = []
    for each in drafts[: rng.randint(1, 2)]:
        demonstration = demonstrate(rng, each)
        lines += [f"{name}: {demonstration.prompt}", f"{friend}: {demonstration.response}"]
    return "\n".join(lines)


_KINDS: tuple[tuple[Callable[[random.Random], str], float], ...] = (
    (_quiz, 0.21),
    (_article, 0.35),
    (_dialogue, 0.12),
    (_comparison, 0.04),
    (_story, 0.06),
    (_sums, 0.12),
    (_plurals, 0.03),
    (_instructions, 0.03),
    (_person_asks, 0.02),
    (_advice, 0.02),
)


def pretraining_documents(seed: int = 0) -> Iterator[str]:
    """Yield short documents in plain English without end, the same for the same seed.

    They are ASCII text of 46 words on average. Only dialogues ('Anna: ...') and quizzes have more
    than one line. All facts of the demonstrations occur, each about once in 2,500 documents.
    """
    rng = random.Random(f"documents {seed}")
    kinds, weights = zip(*_KINDS, strict=True)
    while True:
        chosen: Callable[[random.Random], str] = rng.choices(kinds, weights)[0]
        yield chosen(rng)
