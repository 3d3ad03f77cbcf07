"""Structural features of answers: what a reader sees at a glance, as a few numbers.

A language model's mean state says little about the length of an answer, and nothing linear in it
can say that an answer of medium length is best. Left out: anything that needs a word list.
"""

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

# Numbers of words at which a length feature is 1; it falls to 0 at its neighbours.
_LENGTHS: Final = (0, 4, 8, 12, 18, 26, 38, 56, 84, 126, 190)
# The same for numbers of sentences.
_SENTENCE_COUNTS: Final = (0, 1, 2, 3, 4, 6, 9)
_WORD = re.compile(r"\w+")
SENTENCE_ENDS: Final = ".!?\u2026\u3002\uff01\uff1f"
_SENTENCE = re.compile(rf"[{SENTENCE_ENDS}]+(?=\s|$)")
_ENDED = re.compile(rf"[{SENTENCE_ENDS}][\"')\]]*\s*$")
_LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_MIN_CONTENT_LETTERS: Final = 4  # shorter words say little about the subject
STRUCTURE_SIZE: Final = 9 + 2 * len(_LENGTHS) + len(_SENTENCE_COUNTS)


def structure(prompt: str, answer: str) -> list[float]:
    """Return the structural features of an answer; there are `STRUCTURE_SIZE`.

    They are: the logarithm of the number of words; numbers of sentences, questions, exclamations,
    commas and list items (logarithms); the share of repeated word pairs; the share of the prompt's
    content words in the answer; whether it ends like a sentence; the number of words as a piecewise
    linear function, once as it is and once times the length of the prompt; and the number of
    sentences as one. With the last three, a linear model can prefer a medium length, another one
    for other prompts, and two sentences to one and to three.

    Args:
        prompt: Text of the prompt.
        answer: Text of the answer.

    """
    words = [word.lower() for word in _WORD.findall(answer)]
    sentences = len(_SENTENCE.findall(answer))
    lengths = _piecewise(len(words), _LENGTHS)
    prompt_length = math.log1p(len(_WORD.findall(prompt))) - math.log1p(8)
    return [
        math.log1p(len(words)),
        math.log1p(sentences),
        math.log1p(answer.count("?")),
        math.log1p(answer.count("!")),
        math.log1p(answer.count(",")),
        math.log1p(len(_LIST_ITEM.findall(answer))),
        _repeated_share(words),
        _overlap(prompt, words),
        float(_ENDED.search(answer) is not None),
        *lengths,
        *(length * prompt_length for length in lengths),
        *_piecewise(sentences, _SENTENCE_COUNTS),
    ]


def structures(prompts: Sequence[str], answers: Sequence[str]) -> Tensor:
    """Return the structural features of answers, [A, `STRUCTURE_SIZE`]."""
    return torch.tensor([structure(p, a) for p, a in zip(prompts, answers, strict=True)])


def content_words(text: str) -> set[str]:
    """Return the longer words of a text, in lower case."""
    words = (word.lower() for word in _WORD.findall(text))
    return {word for word in words if len(word) >= _MIN_CONTENT_LETTERS}


def _piecewise(value: int, knots: Sequence[int]) -> list[float]:
    """Return the weights of the two nearest knots, so that they interpolate linearly."""
    value = min(value, knots[-1])
    weights = [0.0] * len(knots)
    upper = next(i for i, knot in enumerate(knots) if value <= knot)
    if upper == 0:
        weights[0] = 1.0
        return weights
    low, high = knots[upper - 1], knots[upper]
    weights[upper] = (value - low) / (high - low)
    weights[upper - 1] = 1.0 - weights[upper]
    return weights


def _repeated_share(words: Sequence[str]) -> float:
    pairs = list(pairwise(words))
    return 1.0 - len(set(pairs)) / len(pairs) if pairs else 0.0


def _overlap(prompt: str, words: Sequence[str]) -> float:
    asked = content_words(prompt)
    return len(asked & set(words)) / len(asked) if asked else 0.0
