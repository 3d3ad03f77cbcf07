"""Demonstrations: prompts with ideal answers, for supervised fine-tuning."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Literal

from learner.corpus.answers import Draft, difference, fact, howto, opinion
from learner.corpus.compose import compose, draw_style
from learner.corpus.talking import small_talk, unknown
from learner.corpus.wishing import one_sentence, story, suggestion, wanted_list

_KINDS: tuple[tuple[Callable[[random.Random], Draft], float], ...] = (
    (fact, 0.43),
    (howto, 0.11),
    (small_talk, 0.17),
    (unknown, 0.135),
    (suggestion, 0.04),
    (opinion, 0.02),
    (wanted_list, 0.035),
    (story, 0.025),
    (one_sentence, 0.02),
    (difference, 0.015),
)
_PREFIXES = ("Please tell me, ", "Hi, ", "Can you tell me, ", "Hello, ", "Hey, ", "So, ")
_PROMPT_DRAWS = 1200
_PROMPT_SEED = 20_240
_EVAL_PERCENT = 20


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt and one of its many ideal responses.

    `response` is one line of ASCII, of 1 to 90 words. `style` says how it was drawn
    ('fact: short+polite'); it is for tests and must not be given to a model.
    """

    prompt: str
    response: str
    style: str


def as_typed(rng: random.Random, prompt: str) -> str:
    """The prompt as people type it: now and then in lower case or without the last mark."""
    if prompt[0].isupper() and prompt.endswith("?") and rng.random() < 0.08:
        prompt = rng.choice(_PREFIXES) + prompt[0].lower() + prompt[1:]
    if rng.random() < 0.3:
        prompt = prompt.lower()
    if rng.random() < 0.3:
        prompt = prompt.rstrip(".?!")
    return prompt


def draw_draft(rng: random.Random) -> Draft:
    """A question of any kind, with what its answer says."""
    kinds, weights = zip(*_KINDS, strict=True)
    chosen: Callable[[random.Random], Draft] = rng.choices(kinds, weights)[0]
    return chosen(rng)


def demonstrate(rng: random.Random, draft: Draft) -> Demonstration:
    """A demonstration from a draft, in a style drawn at random."""
    response, style = compose(rng, draft.content, draw_style(rng))
    return Demonstration(as_typed(rng, draft.prompt), response, style.tag(draft.kind))


def demonstrations(seed: int = 0) -> Iterator[Demonstration]:
    """An endless stream of demonstrations, the same for the same seed.

    About half ask for a fact, one in seven something that the assistant cannot know (it says so),
    the rest are small talk, how-tos and requests. For one prompt the response varies from draw to
    draw in length, politeness, detail, tone, wording and whether it ends with a question,
    independently of each other.
    """
    rng = random.Random(f"demonstrations {seed}")
    while True:
        yield demonstrate(rng, draw_draft(rng))


def _plain(prompt: str) -> str:
    return "".join(c for c in prompt.lower() if c.isalnum() or c == " ").strip()


@cache
def _sampled_prompts() -> tuple[str, ...]:
    """Distinct prompts of the demonstrations; of those that differ in case and marks only, one."""
    by_words: dict[str, str] = {}
    for demonstration in islice(demonstrations(_PROMPT_SEED), _PROMPT_DRAWS):
        by_words.setdefault(_plain(demonstration.prompt) or "?", demonstration.prompt)
    return tuple(sorted(by_words.values()))


def prompts(split: Literal["vote", "eval"]) -> list[str]:
    """Distinct prompts as in the demonstrations, sorted; the same list on every call.

    The two splits are disjoint, by a hash of the prompt's words (case and punctuation left out).
    ValueError for another split.
    """
    if split not in ("vote", "eval"):
        raise ValueError(f"split is 'vote' or 'eval', not {split!r}")
    wants_eval = split == "eval"
    return [
        prompt
        for prompt in _sampled_prompts()
        if (zlib.crc32(_plain(prompt).encode()) % 100 < _EVAL_PERCENT) == wants_eval
    ]
