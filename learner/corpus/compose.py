"""Puts an answer together along independent axes: length, politeness, detail, question, tone.

The axes are drawn independently of each other and of the prompt; what an answer says is fixed by
its `Content`, how it says it by its `Style`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from learner.corpus.phrases import POLITE_CLOSERS, POLITE_OPENERS, TONE_OPENERS
from learner.corpus.text import pick_weighted, with_detail

MAX_WORDS = 90
POLITE_RATE = 0.33
QUESTION_RATE = 0.33
DETAILED_RATE = 0.5
_MESSAGES = ((1, 0.46), (2, 0.16), (3, 0.15), (4, 0.14), (5, 0.09))
_TONES = (("plain", 0.55), ("friendly", 0.25), ("enthusiastic", 0.2))
_CHEERFUL = ("answer", "request", "chat", "thanks")  # where an answer may end with "!"


@dataclass(frozen=True, slots=True)
class Style:
    """How an answer is said. `sentences` counts those that carry content, from 1 to 5."""

    sentences: int
    polite: bool
    detailed: bool
    question: bool
    tone: str

    def tag(self, kind: str) -> str:
        """A readable tag such as 'fact: short+polite+detailed'."""
        length = "short" if self.sentences == 1 else "medium" if self.sentences < 4 else "long"
        flags = {"polite": self.polite, "detailed": self.detailed, "question": self.question}
        parts = [length, *(name for name, on in flags.items() if on)]
        return f"{kind}: " + "+".join(parts if self.tone == "plain" else [*parts, self.tone])


@dataclass(frozen=True, slots=True)
class Content:
    """What an answer says.

    `by_length[n - 1]` holds n sentences as 'plain | detail' texts without their final period; its
    last entry is the longest answer there is. `questions` fit at the end of any answer, `offers`
    only of one that leaves something out. `register` chooses the polite and friendly phrases.
    """

    by_length: tuple[tuple[str, ...], ...]
    questions: tuple[str, ...]
    offers: tuple[str, ...] = ()
    register: str = "answer"


def ordered(first: str, others: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """`by_length` for a first sentence that others may follow, at most five in all."""
    lines = (first, *others)[:5]
    return tuple(lines[: count + 1] for count in range(len(lines)))


def draw_style(rng: random.Random) -> Style:
    """A style whose axes are independent of each other."""
    return Style(
        rng.choices([n for n, _ in _MESSAGES], [w for _, w in _MESSAGES])[0],
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


def _frame(rng: random.Random, content: Content, style: Style) -> tuple[list[str], list[str]]:
    """What comes before and after the content."""
    register = content.register
    before: list[str] = []
    after: list[str] = []
    opens = style.tone != "plain" and rng.random() < 0.8
    if style.polite and (register == "thanks" or (not opens and rng.random() < 0.6)):
        before.append(rng.choice(POLITE_OPENERS[register]))
    else:
        if opens:
            before.append(rng.choice(TONE_OPENERS[register][style.tone]))
        if style.polite:
            after.append(rng.choice(POLITE_CLOSERS[register]))
    if style.question:
        complete = style.sentences >= len(content.by_length)
        offered = not complete and content.offers and rng.random() < 0.5
        after.append(rng.choice(content.offers if offered else content.questions))
    return before, after


def compose(rng: random.Random, content: Content, style: Style) -> tuple[str, Style]:
    """The answer, and its style as it came out (as many sentences and details as there were).

    Never more than `MAX_WORDS` words: sentences are left out of an answer that would be longer.
    """
    before, after = _frame(rng, content, style)
    for count in range(min(style.sentences, len(content.by_length)), 0, -1):
        lines = content.by_length[count - 1]
        text = " ".join([*before, _body(lines, content, style), *after])
        if len(text.split()) <= MAX_WORDS:
            break
    detailed = style.detailed and any(" | " in line for line in lines)
    return text, replace(style, sentences=count, detailed=detailed)
