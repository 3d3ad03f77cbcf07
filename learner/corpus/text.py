"""Helpers that build English sentences."""

from __future__ import annotations

import random
from collections.abc import Sequence

_COMMA_BEFORE = ("because", "such as", "for example", "about", "which")


def capitalise(text: str) -> str:
    """Return `text` with its first letter in upper case; the rest is unchanged."""
    return text[:1].upper() + text[1:]


def lower_first(text: str) -> str:
    """Return `text` with its first letter in lower case, unless its first word is a proper one."""
    if text.startswith(("I ", "I'", "Plaudit", "English")):
        return text
    return text[:1].lower() + text[1:]


def plain_part(value: str) -> str:
    """Return the part of a 'plain | detail' text before the bar."""
    return value.partition(" | ")[0]


def with_detail(value: str, *, detailed: bool) -> str:
    """Return a 'plain | detail' text as one phrase.

    Args:
        value: Text with or without a detail.
        detailed: Keep the detail, after a comma if it needs one.

    """
    plain, _, detail = value.partition(" | ")
    if not detailed or not detail:
        return plain
    comma = "," if detail.startswith(_COMMA_BEFORE) else ""
    return f"{plain}{comma} {detail}"


def join_and(parts: Sequence[str]) -> str:
    """Join words as in 'a', 'a and b' or 'a, b and c'."""
    if len(parts) == 1:
        return parts[0]
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def pick_weighted(rng: random.Random, weighted: Sequence[tuple[str, float]]) -> str:
    """Return one of the names, drawn by its weight."""
    names = [name for name, _ in weighted]
    return rng.choices(names, [weight for _, weight in weighted])[0]
