"""Questions with a known answer: facts, opinions, how-tos, differences, sums and others."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import pydantic.dataclasses

from learner.corpus.categories import Attribute
from learner.corpus.compose import Content, ordered
from learner.corpus.entities import Entity, asked_entities
from learner.corpus.tables import STRICT, load_table
from learner.corpus.text import capitalise, lower_first, plain_part

MORE = ("What else would you like to know?", "Can I help you with something else?")
_OFFERS = ("Would you like to know {}?", "Shall I tell you {}?", "Do you want to know {}?")
# Wordings of 'What is it?' for things of every category; the first ones are the usual ones.
_USUAL_DEFINE = (
    "What is {one}?",
    "What is {one}?",
    "What is {one}?",
    "What's {one}?",
    "What are {many}?",
    "Tell me about {many}.",
    "Tell me about {one}.",
)
_OTHER_DEFINE = (
    "What do you know about {many}?",
    "Can you explain what {one} is?",
    "Tell me something about {many}.",
    "What can you tell me about {many}?",
    "Explain {one}.",
    "Explain {one} to me.",
    "Define {one}.",
    "What does the word {name} mean?",
    "What is the meaning of {name}?",
    "What exactly is {one}?",
    "How would you describe {one}?",
    "Describe {one} in simple words.",
    "Give me some facts about {many}.",
    "I want to learn about {many}.",
    "I do not know what {one} is.",
    "Have you heard of {many}?",
    "Do you know anything about {many}?",
    "Teach me about {many}.",
    "What kind of thing is {one}?",
    "Could you describe {one}?",
    "Please explain {one}.",
    "What is {name}?",
    "{name}",
    "{many}?",
)
# Ways to ask for what an offer names, such as 'where a cat lives'.
_INDIRECT = (
    "Can you tell me {}?",
    "Do you know {}?",
    "I want to know {}.",
    "Please tell me {}.",
    "Tell me {}.",
    "I would like to know {}.",
    "Could you explain {}?",
    "I wonder {}.",
    "Please explain {}.",
    "I am not sure {}.",
)
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
    "Explain how to {}.",
    "I would like to {}. How does that work?",
    "What do I need to do to {}?",
    "How does one {}?",
    "Can you show me how to {}?",
    "how to {}",
    "What are the steps to {}?",
)
_DEFINITION_RATE = 0.4  # share of the questions about an entity that ask what it is
_NAMED_AGAIN = 0.3  # share of later sentences with the name: long answers keep to their subject
_LIKEABLE = (
    *("animal", "food", "weather", "nature", "place", "activity", "subject"),
    *("instrument", "plant", "color", "country", "city", "vehicle"),
)
_LIKE_PROMPTS = (
    "Do you like {many}?",
    "What do you think about {many}?",
    "I like {many}.",
    "I love {many}!",
    "What is your opinion on {many}?",
    "How do you like {many}?",
)
_LARGEST = 20
_SUM_PROMPTS = (
    "What is {a} {verb} {b}?",
    "What is {a} {verb} {b}?",
    "What is {a} {sign} {b}?",
    "{a} {sign} {b}",
    "{a} {sign} {b} = ?",
    "How much is {a} {verb} {b}?",
    "Can you work out {a} {verb} {b}?",
    "{a} {verb} {b}",
    "What does {a} {verb} {b} make?",
    "Calculate {a} {sign} {b}.",
)
_SUM_ASIDES = ("Do you want another one?", "Do you like math?", "Shall we do one more?")
_COUNTING = (
    "You can count it on your fingers | one at a time",
    "Small numbers are easy to count | with stones or coins",
)
_DIFFERENCE_PROMPTS = (
    "What is the difference between {} and {}?",
    "Compare {} and {}.",
    "How are {} and {} different?",
    "How does {} differ from {}?",
    "How do I tell {} from {}?",
    "Is {} the same as {}?",
)
_ORDER = {
    2: ("First,", "Then,"),
    3: ("First,", "Then,", "Last,"),
    4: ("First,", "Then,", "After that,", "Last,"),
}


@dataclass(frozen=True, slots=True)
class Draft:
    """A question and what an answer to it says.

    Attributes:
        kind: Kind of question, as in the style tags of the demonstrations.
        prompt: The question.
        content: What an answer says.
        topic: Thing that more can be asked about, if any.
        attribute: Attribute of the topic that the question asks for, if any.

    """

    kind: str
    prompt: str
    content: Content
    topic: Entity | None = None
    attribute: Attribute | None = None


@pydantic.dataclasses.dataclass(frozen=True, slots=True, config=STRICT)
class HowTo:
    """Instructions in `howtos.jsonl`; all but the goal are 'plain | detail' texts.

    Attributes:
        goal: What the user wants to do, in the infinitive; it says 'my' where an answer says
            'your'.
        summary: The whole in one imperative sentence.
        steps: Imperatives in lower case, in order.
        tip: One more imperative.

    """

    goal: str
    summary: str
    steps: tuple[str, ...]
    tip: str

    @property
    def answer_goal(self) -> str:
        """The goal as an answer says it."""
        return self.goal.replace("my ", "your ")


def howtos() -> tuple[HowTo, ...]:
    """Return all instructions, in the order of their table."""
    return load_table("howtos.jsonl", HowTo)


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
        direct = _USUAL_DEFINE if rng.random() < 0.55 else _OTHER_DEFINE
    elif rng.random() < 0.3:
        return rng.choice(_INDIRECT).format(entity.fill(attribute.offer))
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
    prompt = entity.fill(rng.choice(_LIKE_PROMPTS))
    questions = (entity.fill(entity.category.asides[1]), "What else do you like?", *MORE)
    content = Content(ordered(entity.fill(first), lines), questions, register="chat")
    return Draft("opinion", prompt, content, entity)


def _join_steps(steps: tuple[str, ...], count: int) -> list[str]:
    """Join the steps to `count` sentences, each with the detail of its last step."""
    size, extra = divmod(len(steps), count)
    sentences: list[str] = []
    start = 0
    for number, order in enumerate(_ORDER[count]):
        end = start + size + (number < extra)
        joined = " and ".join([*map(plain_part, steps[start : end - 1]), steps[end - 1]])
        sentences.append(f"{order} {joined}")
        start = end
    return sentences


def howto_lines(howto: HowTo, summary: str) -> tuple[tuple[str, ...], ...]:
    """Return a how-to in each length: the summary, all steps, and all steps with the tip."""
    by_length = [tuple(_join_steps(howto.steps, n)) for n in range(2, len(howto.steps) + 1)]
    return ((summary,), *by_length, (*by_length[-1], capitalise(howto.tip)))


def howto_question(rng: random.Random) -> Draft:
    """Draw a question how to do something."""
    howto = rng.choice(howtos())
    summary = rng.choice(
        (
            f"To {howto.answer_goal}, {howto.summary}",
            capitalise(howto.summary),
            f"You should {howto.summary}",
        )
    )
    questions = (*_ABOUT_HOWTO, rng.choice(MORE))
    content = Content(howto_lines(howto, summary), questions, (), "request")
    return Draft("howto", rng.choice(_HOWTO_PROMPTS).format(howto.goal), content)


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
    prompt = rng.choice(_DIFFERENCE_PROMPTS).format(one.one, other.one)
    asides = tuple(entity.fill(entity.category.asides[0]) for entity in (one, other))
    return Draft("difference", prompt, Content(ordered(lines[0], lines[1:]), (*asides, *MORE)))


@pydantic.dataclasses.dataclass(frozen=True, slots=True, config=STRICT)
class Question:
    """A question about the world in `questions.jsonl`, such as why the sky is blue.

    Attributes:
        questions: Wordings of the question.
        lines: 'plain | detail' sentences without their period; the first one answers.
        asides: Questions to the user that fit at the end.

    """

    questions: tuple[str, ...]
    lines: tuple[str, ...]
    asides: tuple[str, ...]


def world_question(rng: random.Random) -> Draft:
    """Draw a question about the world, a joke, a rhyme or a riddle."""
    row = rng.choice(load_table("questions.jsonl", Question))
    content = Content(ordered(row.lines[0], row.lines[1:]), (*row.asides, rng.choice(MORE)))
    return Draft("world", rng.choice(row.questions), content)


def sum_question(rng: random.Random) -> Draft:
    """Draw a sum or a difference of whole numbers from 0 to 20."""
    first, second = rng.randint(0, _LARGEST), rng.randint(0, _LARGEST)
    result, sign, verb = first + second, "+", "plus"
    if result > _LARGEST or rng.random() < 0.4:
        first, second = max(first, second), min(first, second)
        result, sign, verb = first - second, "-", "minus"
    prompt = rng.choice(_SUM_PROMPTS).format(a=first, b=second, sign=sign, verb=verb)
    core = rng.choice(
        (
            f"{first} {verb} {second} is {result}",
            f"{first} {verb} {second} is {result}",
            f"The answer is {result}",
            f"{first} {sign} {second} = {result}",
            f"That makes {result}",
        )
    )
    back = f"{result} {'minus' if sign == '+' else 'plus'} {second} is {first}"
    lines = ordered(core, [f"You can check that {back}", rng.choice(_COUNTING)])
    return Draft("sum", prompt, Content(lines, _SUM_ASIDES, register="request"))
