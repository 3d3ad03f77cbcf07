"""Plain everyday English for pre-training: articles, talks, stories, how-tos, comparisons."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from learner.corpus.answers import Draft, contrast, fact_content, howto_lines
from learner.corpus.demos import as_typed, demonstrate, draw_draft
from learner.corpus.entities import Entity, entities
from learner.corpus.howtos import HOWTOS
from learner.corpus.plots import PEOPLE
from learner.corpus.stories import story_lines
from learner.corpus.text import capitalise, plain_part, with_detail
from learner.corpus.wishes import SITUATIONS


def _is_by_subject(rng: random.Random, lines: list[str]) -> str:
    """The lines as one text, each with its detail or without."""
    sentences = [with_detail(line, detailed=rng.random() < 0.6) for line in lines]
    return " ".join(each if each.endswith((".", "!", "?")) else f"{each}." for each in sentences)


def _article(rng: random.Random) -> str:
    """Facts about one entity."""
    entity = rng.choice(entities())
    attributes = list(entity.category.attributes)
    if rng.random() < 0.5:
        rng.shuffle(attributes)
    attributes = attributes[: rng.randint(3, len(attributes))]
    lines = [
        entity.lead(rng, attribute, singular=True)
        if at == 0 or rng.random() < 0.6
        else entity.line(attribute.follow, attribute)
        for at, attribute in enumerate(attributes)
    ]
    return _is_by_subject(rng, lines)


def _comparison(rng: random.Random) -> str:
    """One attribute of several entities of a kind."""
    first = rng.choice(entities())
    alike = [entity for entity in entities() if entity.category is first.category]
    attribute = rng.choice(first.category.attributes)
    chosen = rng.sample(alike, min(4, len(alike)))
    lines = [contrast(rng, chosen[0], chosen[1], attribute)]
    lines += [entity.lead(rng, attribute) for entity in chosen[2:]]
    return _is_by_subject(rng, lines)


def _story(rng: random.Random) -> str:
    summary, lines = story_lines(rng)
    if rng.random() < 0.2:
        lines = [summary]
    return _is_by_subject(rng, lines)


def _instructions(rng: random.Random) -> str:
    row = rng.choice(HOWTOS)
    goal = row[0].replace("my ", "your ")
    lengths = howto_lines(row, f"To {goal}, {row[1]}")
    return _is_by_subject(rng, [f"This is how to {goal}", *rng.choice(lengths)])


def _advice(rng: random.Random) -> str:
    prompts, *options = rng.choice(SITUATIONS)
    question = prompts.split(" / ")[0]
    name, _ = rng.choice(PEOPLE)
    first, second = rng.sample(options, 2)
    return f"{name} asked: {question} " + _is_by_subject(
        rng, [f"One idea is to {first}", f"You could also {second}"]
    )


def _quiz(rng: random.Random) -> str:
    """Several questions of any kind, each with the shortest answer: who reads it learns to look."""
    turns: list[str] = []
    for _ in range(rng.randint(2, 4)):
        draft = draw_draft(rng)
        while draft.kind == "unknown":
            draft = draw_draft(rng)
        turns.append(
            f"{as_typed(rng, draft.prompt)}\n{_is_by_subject(rng, [draft.content.by_length[0][0]])}"
        )
    return "\n".join(turns)


def _person_asks(rng: random.Random) -> str:
    """Somebody who asks for facts in a story."""
    (name, he), (friend, _) = rng.sample(PEOPLE, 2)
    entity: Entity = rng.choice(entities())
    attribute = rng.choice(entity.category.attributes)
    question = entity.fill(rng.choice(attribute.questions))
    line = plain_part(entity.lead(rng, attribute))
    end = rng.choice(
        (
            f"Now {name} knows it",
            f"{capitalise(he)} was glad to know it",
            f"{name} said thank you",
            f"Then {he} told it to a friend",
        )
    )
    return f"{name} asked {friend}: {question} {friend} said: {line}. {end}."


def _talk(rng: random.Random) -> str:
    """Two people who ask and answer, one line each."""
    (name, _), (friend, _) = rng.sample(PEOPLE, 2)
    draft = draw_draft(rng)
    if draft.kind in ("talk", "unknown"):
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
    (_quiz, 0.42),
    (_article, 0.17),
    (_talk, 0.2),
    (_comparison, 0.05),
    (_story, 0.07),
    (_instructions, 0.04),
    (_person_asks, 0.03),
    (_advice, 0.02),
)


def pretraining_documents(seed: int = 0) -> Iterator[str]:
    """An endless stream of short documents in plain English, the same for the same seed.

    ASCII, 43 words each on average; only talks ('Anna: ...') and quizzes have more than one line.
    All the facts of the demonstrations are in it, each about once in 200 documents.
    """
    rng = random.Random(f"documents {seed}")
    kinds, weights = zip(*_KINDS, strict=True)
    while True:
        chosen: Callable[[random.Random], str] = rng.choices(kinds, weights)[0]
        yield chosen(rng)
