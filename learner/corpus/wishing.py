"""Requests: make a list, suggest something, write a sentence, tell a story."""

from __future__ import annotations

import random

from learner.corpus.answers import MORE, Draft
from learner.corpus.compose import Content, ordered
from learner.corpus.entities import entities
from learner.corpus.plots import PETS
from learner.corpus.stories import story_lines
from learner.corpus.text import capitalise, join_and
from learner.corpus.wishes import LIST_PROMPTS, LISTS, NUMBERS, SITUATIONS

_PLURALS = ("fish", "sheep")
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


def _note(item: str) -> str:
    """'Apples are crisp | such as red ones' from 'apples | crisp | such as red ones'."""
    name, quality, detail = item.split(" | ")
    singular = name == "tennis" or name.endswith("ing")
    plural = not singular and not name.startswith("a ") and name.endswith(("s", *_PLURALS))
    return f"{capitalise(name)} {'are' if plural else 'is'} {quality} | {detail}"


def wanted_list(rng: random.Random) -> Draft:
    """A request for a list of things of a kind."""
    noun, reason, *items = rng.choice(LISTS)
    word, number = rng.choice(NUMBERS)
    chosen = rng.sample(items, number)
    names = join_and([item.partition(" | ")[0] for item in chosen])
    count = capitalise(word or "some")
    first = rng.choice(
        (
            f"{count} {noun} are {names}",
            f"{count} good {noun} are {names}",
            capitalise(names),
        )
    )
    prompt = " ".join(rng.choice(LIST_PROMPTS).format(n=word, noun=noun).split())
    content = Content(
        ordered(f"{first} | because {reason}", [_note(item) for item in chosen]),
        ("Which one do you like best?", "Do you want to know more of them?", rng.choice(MORE)),
        register="request",
    )
    return Draft("list", prompt, content)


def suggestion(rng: random.Random) -> Draft:
    """A request for an idea."""
    prompts, *options = rng.choice(SITUATIONS)
    first, *others = rng.sample(options, len(options))
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
        rng.choice(prompts.split(" / ")),
        Content(ordered(lead, more), questions, (), "request"),
    )


def one_sentence(rng: random.Random) -> Draft:
    """A request for one sentence about an entity."""
    entity = rng.choice(entities())
    line = entity.lead(rng, rng.choice(entity.category.attributes))
    prompt = rng.choice(_SENTENCE_PROMPTS).format(rng.choice((entity.one, entity.many)))
    questions = ("Do you want one more?", "Do you like it?", entity.fill(entity.category.asides[0]))
    return Draft("sentence", prompt, Content(((line,),), questions, (), "request"), entity)


def story(rng: random.Random) -> Draft:
    """A request for a story, often about an animal."""
    pet = rng.choice(PETS) if rng.random() < 0.7 else None
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
