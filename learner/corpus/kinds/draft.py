"""A question or request that was drawn, and what an answer to it says."""

from __future__ import annotations

from dataclasses import dataclass

from learner.corpus.categories import Attribute
from learner.corpus.compose import Content
from learner.corpus.entities import Entity

MORE = ("What else would you like to know?", "Can I help you with something else?")


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
