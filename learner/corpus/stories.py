"""Very short stories, filled in from the plots."""

from __future__ import annotations

import random

from learner.corpus.entities import entities
from learner.corpus.plots import MEALS, PEOPLE, PETS, PLOTS
from learner.corpus.text import capitalise

_HIS = {"he": "his", "she": "her"}
_HIM = {"he": "him", "she": "her"}


def story_lines(rng: random.Random, pet: str | None = None) -> tuple[str, list[str]]:
    """A summary sentence and the sentences of one story, 'plain | detail' without periods.

    If `pet` is given ('a cat'), the story has it in it.
    """
    places = [entity.one for entity in entities() if entity.category.name == "place"]
    plots = [plot for plot in PLOTS if pet is None or "{pet}" in plot[0]]
    summary, *lines = rng.choice(plots)
    (name, he), (friend, _) = rng.sample(PEOPLE, 2)
    slots = {
        "{name}": name,
        "{friend}": friend,
        "{he}": he,
        "{He}": capitalise(he),
        "{his}": _HIS[he],
        "{His}": capitalise(_HIS[he]),
        "{him}": _HIM[he],
        "{pet}": pet or rng.choice(PETS),
        "{food}": rng.choice(MEALS),
        "{place}": rng.choice(places),
    }

    def fill(line: str) -> str:
        for slot, word in slots.items():
            line = line.replace(slot, word)
        return line

    return fill(summary), [fill(line) for line in lines]
