"""What an attribute of a kind of thing is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attribute:
    """How one attribute is asked for and stated.

    `questions` name the thing; `again` asks once it is known ('What does it eat?'). `leads` state
    the fact with the name, `follow` with a pronoun. `offer` completes 'Would you like to know ...'.
    """

    key: str
    questions: tuple[str, ...]
    leads: tuple[str, ...]
    follow: str
    offer: str
    again: str


@dataclass(frozen=True, slots=True)
class Category:
    """A kind of thing: its attributes, the definition first, and small questions about it."""

    name: str
    attributes: tuple[Attribute, ...]
    asides: tuple[str, ...]


def attribute(key: str, questions: str, leads: str, rest: str) -> Attribute:
    """An attribute from texts with slashes between parts; `rest` is follow, offer, again."""
    follow, offer, again = rest.split(" / ")
    return Attribute(
        key, tuple(questions.split(" / ")), tuple(leads.split(" / ")), follow, offer, again
    )


def definition() -> Attribute:
    """What a thing is."""
    return Attribute(
        "what",
        (
            "What is {one}?",
            "What's {one}?",
            "Tell me about {many}.",
            "Tell me about {one}.",
            "What do you know about {many}?",
            "Can you explain what {one} is?",
            "Tell me something about {many}.",
            "What can you tell me about {many}?",
        ),
        ("{One} is {v}", "{One} is {v}", "{One}, in simple words, is {v}"),
        "It is {v}",
        "what {one} is",
        "What is it?",
    )
