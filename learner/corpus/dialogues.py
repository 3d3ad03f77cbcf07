"""Generate conversations of one to four turns, as lists of messages."""

from __future__ import annotations

import random
from collections.abc import Iterator

from learner.corpus.compose import Content, compose, draw_style, ordered
from learner.corpus.demos import as_typed, demonstrate, draw_draft
from learner.corpus.entities import Entity, asked_entities
from learner.corpus.kinds.draft import Draft
from learner.corpus.kinds.facts import fact_content
from learner.corpus.kinds.small_talk import small_talk

_SINGLE_TURN = 0.7
_TELL_MORE = (
    "Tell me more.",
    "Can you tell me more?",
    "What else?",
    "More please.",
    "I want to know more.",
    "And what else?",
)
_WHAT_ABOUT = ("What about {}?", "And {}?", "And what about {}?", "How about {}?")
_SYSTEM_RATE = 0.06  # share of the conversations that begin with a system message
_SYSTEM = (
    "You are a helpful assistant.",
    "You are Plaudit, a friendly chat helper.",
    "You are a friendly assistant.",
    "Answer questions about everyday things.",
    "You are a helpful assistant. Answer in simple words.",
    "Help the user.",
)
_YES = ("Yes, please.", "Yes", "yes please", "Yes, tell me.", "Sure", "ok")

Messages = list[dict[str, str]]


def _turn(rng: random.Random, draft: Draft) -> Messages:
    """Return a demonstration of the draft as two messages."""
    demonstration = demonstrate(rng, draft)
    return [
        {"role": "user", "content": demonstration.prompt},
        {"role": "assistant", "content": demonstration.response},
    ]


def _more(rng: random.Random, entity: Entity, answer: str) -> Messages:
    """Draw a turn that asks for more about an entity, or accepts the offer in the last answer.

    The reply states facts that the last answer did not.
    """
    unstated = [
        attribute
        for attribute, value in zip(entity.category.attributes, entity.values, strict=True)
        if value.partition(" | ")[0] not in answer
    ] or list(entity.category.attributes)
    rng.shuffle(unstated)
    offered = [a for a in entity.category.attributes if answer.endswith(entity.fill(a.offer) + "?")]
    if offered:
        prompt, content = rng.choice(_YES), fact_content(rng, entity, offered[0])
    elif rng.random() < 0.5:
        prompt, content = unstated[0].again, fact_content(rng, entity, unstated[0])
        content = Content(content.by_length[:2], content.questions)
    else:
        first, *others = [entity.line(attribute.follow, attribute) for attribute in unstated]
        prompt, content = (
            rng.choice(_TELL_MORE),
            Content(ordered(first, others), tuple(map(entity.fill, entity.category.asides))),
        )
    response, _ = compose(rng, content, draw_style(rng))
    return [
        {"role": "user", "content": as_typed(rng, prompt)},
        {"role": "assistant", "content": response},
    ]


def _same_of_another(rng: random.Random, draft: Draft) -> Messages:
    """Draw a turn that asks the last question about another thing, in a few words."""
    assert draft.topic is not None
    assert draft.attribute is not None
    alike = [each for each in asked_entities() if each.category is draft.topic.category]
    other = rng.choice([each for each in alike if each is not draft.topic])
    prompt = rng.choice(_WHAT_ABOUT).format(rng.choice((other.one, other.many)))
    return _turn(rng, Draft("fact", prompt, fact_content(rng, other, draft.attribute)))


def _several_turns(rng: random.Random) -> Messages:
    """Draw two to four turns on one subject, perhaps with a greeting before and thanks after."""
    messages: Messages = []
    if rng.random() < 0.2:
        messages += _turn(rng, small_talk(rng, rng.choice(("hello", "how are you", "meet"))))
    draft = draw_draft(rng)
    messages += _turn(rng, draft)
    if draft.attribute is not None and rng.random() < 0.25:
        messages += _same_of_another(rng, draft)
    elif draft.topic is not None and rng.random() < 0.7:
        messages += _more(rng, draft.topic, messages[-1]["content"])
    if len(messages) < 4 or (len(messages) < 6 and rng.random() < 0.4):
        closing = rng.choice(("thanks", "thanks", "thanks", "ok", "bye"))
        messages += _turn(rng, small_talk(rng, closing))
    return messages


def conversations(seed: int = 0) -> Iterator[Messages]:
    """Yield conversations in OpenAI's message format without end, the same for the same seed.

    The roles 'user' and 'assistant' alternate, the last is 'assistant'; some conversations begin
    with a 'system' message that changes nothing. About seven in ten have one turn (a
    demonstration). The others have two to four turns: more about the same thing, the same about
    another, a greeting before, or thanks after.
    """
    rng = random.Random(f"conversations {seed}")
    while True:
        system: Messages = []
        if rng.random() < _SYSTEM_RATE:
            system = [{"role": "system", "content": rng.choice(_SYSTEM)}]
        if rng.random() < _SINGLE_TURN:
            yield [*system, *_turn(rng, draw_draft(rng))]
        else:
            yield [*system, *_several_turns(rng)]
