"""Sums and differences of whole numbers from 0 to 20."""

from __future__ import annotations

import random

from learner.corpus.compose import Content, ordered
from learner.corpus.kinds.draft import Draft
from learner.corpus.tables import wordings

_LARGEST = 20
_SUM_ASIDES = ("Do you want another one?", "Do you like math?", "Shall we do one more?")
_COUNTING = (
    "You can count it on your fingers | one at a time",
    "Small numbers are easy to count | with stones or coins",
)


def _draw(rng: random.Random) -> tuple[int, int, int, str, str]:
    """Draw two numbers, their sum or difference, and its sign as a symbol and a word."""
    part, total = sorted((rng.randint(0, _LARGEST), rng.randint(0, _LARGEST)))
    if rng.random() < 0.55:
        return part, total - part, total, "+", "plus"
    return total, part, total - part, "-", "minus"


def sum_text(rng: random.Random) -> str:
    """Draw a sentence that states a sum or a difference, without its period."""
    first, second, result, sign, verb = _draw(rng)
    if rng.random() < 0.3:
        return f"{first} {sign} {second} = {result}"
    return f"{first} {verb} {second} is {result}"


def sum_question(rng: random.Random) -> Draft:
    """Draw a sum or a difference of whole numbers from 0 to 20."""
    first, second, result, sign, verb = _draw(rng)
    prompt = rng.choice(wordings("sums")).format(a=first, b=second, sign=sign, verb=verb)
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
