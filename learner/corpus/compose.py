"""Compose an answer along independent axes: length, politeness, detail, question and tone.

`Content` fixes what an answer says, `Style` how it says it. The axes are drawn independently of
each other and of the prompt.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import pydantic.dataclasses

from learner.corpus.tables import STRICT, load_table
from learner.corpus.text import pick_weighted, with_detail

MAX_WORDS = 90
POLITE_RATE = 0.33
QUESTION_RATE = 0.33
DETAILED_RATE = 0.5
_LENGTHS = ((1, 0.46), (2, 0.16), (3, 0.15), (4, 0.14), (5, 0.09))
_TONES = (("plain", 0.55), ("friendly", 0.25), ("enthusiastic", 0.2))
_CHEERFUL = ("answer", "request", "chat", "thanks")  # registers whose answers may end with "!"


@pydantic.dataclasses.dataclass(frozen=True, slots=True, config=STRICT)
class Phrases:
    """Polite and friendly sentences around an answer in one register, in `phrases.jsonl`.

    Attributes:
        register: 'answer' (a fact), 'request' (something to do or make), 'health' (an ailment),
            'chat' (small talk), 'care' (a user who feels bad), 'thanks' (a reply to thanks) or
            'unknown' (a question without a known answer).
        polite_openers: Polite sentences before the content.
        polite_closers: Polite sentences after the content.
        tone_openers: Sentences before the content, for each tone but 'plain'.

    """

    register: str
    polite_openers: tuple[str, ...]
    polite_closers: tuple[str, ...]
    tone_openers: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Style:
    """How an answer is said.

    Attributes:
        sentences: Number of sentences that carry content, from 1 to 5.
        polite: Whether it has a polite sentence before or after the content.
        detailed: Whether the sentences include their details.
        question: Whether it ends with a question.
        tone: 'plain', 'friendly' or 'enthusiastic'.

    """

    sentences: int
    polite: bool
    detailed: bool
    question: bool
    tone: str

    def tag(self, kind: str) -> str:
        """Return a readable tag such as 'fact: short+polite+detailed'."""
        length = "short" if self.sentences == 1 else "medium" if self.sentences < 4 else "long"
        flags = {"polite": self.polite, "detailed": self.detailed, "question": self.question}
        parts = [length, *(name for name, on in flags.items() if on)]
        return f"{kind}: " + "+".join(parts if self.tone == "plain" else [*parts, self.tone])


@dataclass(frozen=True, slots=True)
class Content:
    """What an answer says.

    Attributes:
        by_length: At index n - 1, n sentences as 'plain | detail' texts without their final
            period. The last entry is the longest possible answer.
        questions: Questions that fit at the end of any answer.
        offers: Questions that fit only at the end of an answer that leaves something out.
        register: Register of the phrases around the answer; see `Phrases`.

    """

    by_length: tuple[tuple[str, ...], ...]
    questions: tuple[str, ...]
    offers: tuple[str, ...] = ()
    register: str = "answer"


def ordered(first: str, others: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return `Content.by_length` for a first sentence and up to four that may follow it."""
    lines = (first, *others)[:5]
    return tuple(lines[: count + 1] for count in range(len(lines)))


def draw_style(rng: random.Random) -> Style:
    """Draw a style whose axes are independent of each other."""
    return Style(
        rng.choices([n for n, _ in _LENGTHS], [w for _, w in _LENGTHS])[0],
        rng.random() < POLITE_RATE,
        rng.random() < DETAILED_RATE,
        rng.random() < QUESTION_RATE,
        pick_weighted(rng, _TONES),
    )


def _sentence(text: str, *, detailed: bool, mark: str) -> str:
    sentence = with_detail(text, detailed=detailed)
    return sentence if sentence.endswith((".", "!", "?")) else sentence + mark


def _body(lines: tuple[str, ...], content: Content, style: Style) -> str:
    excited = style.tone == "enthusiastic" and content.register in _CHEERFUL
    marks = ["."] * (len(lines) - 1) + ["!" if excited else "."]
    return " ".join(
        _sentence(line, detailed=style.detailed, mark=mark)
        for line, mark in zip(lines, marks, strict=True)
    )


@cache
def _phrases() -> dict[str, Phrases]:
    return {row.register: row for row in load_table("phrases.jsonl", Phrases)}


def _frame(rng: random.Random, content: Content, style: Style) -> tuple[list[str], list[str]]:
    """Draw the sentences before and after the content."""
    phrases = _phrases()[content.register]
    before: list[str] = []
    after: list[str] = []
    opens = style.tone != "plain" and rng.random() < 0.8
    if style.polite and (content.register == "thanks" or (not opens and rng.random() < 0.6)):
        before.append(rng.choice(phrases.polite_openers))
    else:
        if opens:
            before.append(rng.choice(phrases.tone_openers[style.tone]))
        if style.polite:
            after.append(rng.choice(phrases.polite_closers))
    if style.question:
        complete = style.sentences >= len(content.by_length)
        offered = not complete and content.offers and rng.random() < 0.5
        after.append(rng.choice(content.offers if offered else content.questions))
    return before, after


def compose(rng: random.Random, content: Content, style: Style) -> tuple[str, Style]:
    """Compose an answer of at most `MAX_WORDS` words.

    Sentences are left out of an answer that would be longer.

    Returns:
        The answer, and its actual style: the sentences and details that it has, not those drawn.

    """
    before, after = _frame(rng, content, style)
    for count in range(min(style.sentences, len(content.by_length)), 0, -1):
        lines = content.by_length[count - 1]
        text = " ".join([*before, _body(lines, content, style), *after])
        if len(text.split()) <= MAX_WORDS:
            break
    detailed = style.detailed and any(" | " in line for line in lines)
    return text, replace(style, sentences=count, detailed=detailed)
