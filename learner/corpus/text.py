"""Small helpers that put English sentences together."""

from __future__ import annotations

import random
from collections.abc import Sequence

_COMMA_BEFORE = ("because", "such as", "for example", "about", "which")


def capitalise(text: str) -> str:
    """`text` with its first letter in upper case and the rest as it was."""
    return text[:1].upper() + text[1:]


def lower_first(text: str) -> str:
    """`text` with its first letter in lower case, unless that word is 'I' or 'Plaudit'."""
    if text.startswith(("I ", "I'", "Plaudit", "English")):
        return text
    return text[:1].lower() + text[1:]


def plain_part(value: str) -> str:
    """The part of a 'plain | detail' text before the bar."""
    return value.partition(" | ")[0]


def with_detail(value: str, *, detailed: bool) -> str:
    """A 'plain | detail' text as one phrase: with the detail, after a comma where it needs one."""
    plain, _, detail = value.partition(" | ")
    if not detailed or not detail:
        return plain
    comma = "," if detail.startswith(_COMMA_BEFORE) else ""
    return f"{plain}{comma} {detail}"


def join_and(parts: Sequence[str]) -> str:
    """'a', 'a and b' or 'a, b and c'."""
    if len(parts) == 1:
        return parts[0]
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def pick_weighted(rng: random.Random, weighted: Sequence[tuple[str, float]]) -> str:
    """One of the names, drawn with its weight."""
    names = [name for name, _ in weighted]
    return rng.choices(names, [weight for _, weight in weighted])[0]
