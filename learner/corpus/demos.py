"""Generate demonstrations for supervised fine-tuning: prompts with good answers."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Literal

from learner.corpus.compose import compose, draw_style
from learner.corpus.kinds.draft import Draft
from learner.corpus.kinds.facts import difference_question, fact_question, opinion_question
from learner.corpus.kinds.howtos import howto_question
from learner.corpus.kinds.requests import (
    list_request,
    sentence_request,
    story_request,
    suggestion_request,
)
from learner.corpus.kinds.small_talk import small_talk
from learner.corpus.kinds.sums import sum_question
from learner.corpus.kinds.told import told_question
from learner.corpus.kinds.unknown import unknown_question
from learner.corpus.kinds.world import world_question
from learner.corpus.tables import wordings

_KINDS: tuple[tuple[Callable[[random.Random], Draft], float], ...] = (
    (fact_question, 0.36),
    (told_question, 0.06),
    (howto_question, 0.06),
    (small_talk, 0.09),
    (unknown_question, 0.13),
    (world_question, 0.055),
    (sum_question, 0.1),
    (suggestion_request, 0.03),
    (opinion_question, 0.02),
    (list_request, 0.025),
    (story_request, 0.035),
    (sentence_request, 0.015),
    (difference_question, 0.02),
)
_OPENER_RATE = 0.06  # share of the questions with words before them; as many with a sentence
_PROMPT_DRAWS = 1200
_PROMPT_SEED = 20_240
_EVAL_PERCENT = 20


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt and one of its many good responses.

    Attributes:
        prompt: What the user says.
        response: One line of ASCII text, of 1 to 90 words.
        style: Kind and style ('fact: short+polite'), for tests; models must not see it.

    """

    prompt: str
    response: str
    style: str


def as_typed(rng: random.Random, prompt: str) -> str:
    """Return the prompt as users type it.

    That is sometimes in lower case, without the last mark, or with words around a question.
    """
    if prompt[0].isupper() and prompt.endswith("?"):
        way = rng.random()
        if way < _OPENER_RATE:
            prompt = rng.choice(wordings("openers")) + prompt[0].lower() + prompt[1:]
        elif way < 2 * _OPENER_RATE:
            prompt = f"{rng.choice(wordings('contexts'))} {prompt}"
        elif way < 3 * _OPENER_RATE:
            prompt = f"{prompt} {rng.choice(wordings('closers'))}"
    if rng.random() < 0.3:
        prompt = prompt.lower()
    if rng.random() < 0.3:
        prompt = prompt.rstrip(".?!")
    return prompt


def draw_draft(rng: random.Random) -> Draft:
    """Draw a question or request of any kind."""
    kinds, weights = zip(*_KINDS, strict=True)
    chosen: Callable[[random.Random], Draft] = rng.choices(kinds, weights)[0]
    return chosen(rng)


def demonstrate(rng: random.Random, draft: Draft) -> Demonstration:
    """Compose a demonstration from a draft, in a random style."""
    response, style = compose(rng, draft.content, draw_style(rng))
    return Demonstration(as_typed(rng, draft.prompt), response, style.tag(draft.kind))


def demonstrations(seed: int = 0) -> Iterator[Demonstration]:
    """Yield demonstrations without end, the same for the same seed.

    Four in ten ask for a fact. One in eight asks for something that the assistant does not know
    and says so. The rest are small talk, how-tos, sums and requests. The responses to one prompt
    vary in length, politeness, detail, tone, wording and whether they end with a question,
    independently of each other.
    """
    rng = random.Random(f"demonstrations {seed}")
    while True:
        yield demonstrate(rng, draw_draft(rng))


def _plain(prompt: str) -> str:
    return "".join(c for c in prompt.lower() if c.isalnum() or c == " ").strip()


@cache
def _sampled_prompts() -> tuple[str, ...]:
    """Return distinct prompts; of those that differ only in case and punctuation, one."""
    by_words: dict[str, str] = {}
    for demonstration in islice(demonstrations(_PROMPT_SEED), _PROMPT_DRAWS):
        by_words.setdefault(_plain(demonstration.prompt) or "?", demonstration.prompt)
    return tuple(sorted(by_words.values()))


def prompts(split: Literal["vote", "eval"]) -> list[str]:
    """Return distinct prompts of the demonstrations, sorted; the same list on every call.

    The two splits are disjoint: a hash of the prompt's words, without case and punctuation,
    assigns each prompt to one of them.

    Raises:
        ValueError: There is no such split.

    """
    if split not in ("vote", "eval"):
        raise ValueError(f"split is 'vote' or 'eval', not {split!r}")
    wants_eval = split == "eval"
    return [
        prompt
        for prompt in _sampled_prompts()
        if (zlib.crc32(_plain(prompt).encode()) % 100 < _EVAL_PERCENT) == wants_eval
    ]
