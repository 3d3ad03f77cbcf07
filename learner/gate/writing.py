"""How well a policy writes, whatever people voted on: fluency and diversity of its answers.

What nobody votes on can go downhill unseen. Fluency is measured by version 1, which wrote well
before anything was learned from votes: broken sentences surprise it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from learner.data.structure import SENTENCE_ENDS
from learner.sampling.sampler import Sample

_SENTENCE_END = re.compile(rf"[{SENTENCE_ENDS}\n]")


@dataclass(frozen=True, slots=True)
class Fluency:
    """Loss of answers under version 1.

    Attributes:
        mean: Mean loss of a token, in nats.
        worst: Loss of an answer's worst sentence, in nats per token, mean over the answers.

    """

    mean: float
    worst: float


def fluency(
    answers: Sequence[Sample],
    log_probs: Sequence[Sequence[float]],
    decode_token: Callable[[int], str],
) -> Fluency:
    """Measure the fluency of answers.

    Args:
        answers: Sampled answers.
        log_probs: Log-probability of each token of each answer under version 1.
        decode_token: Function from a token id to its text.

    """
    tokens = sum(map(len, log_probs))
    worst = [
        max(sentence_losses(answer.token_ids, own, decode_token))
        for answer, own in zip(answers, log_probs, strict=True)
    ]
    return Fluency(-sum(map(sum, log_probs)) / tokens, sum(worst) / len(worst))


def sentence_losses(
    token_ids: Sequence[int], log_probs: Sequence[float], decode_token: Callable[[int], str]
) -> list[float]:
    """Return the mean loss of each sentence, in nats per token.

    A token with a full stop, a question mark, an exclamation mark or a line break ends a sentence.
    The end token belongs to the last one, since ending too early is a fault too.
    """
    sentences: list[list[float]] = [[]]
    for token, log_prob in zip(token_ids, log_probs, strict=True):
        sentences[-1].append(-log_prob)
        if _SENTENCE_END.search(decode_token(token)):
            sentences.append([])
    if len(sentences) > 1 and len(sentences[-1]) <= 1:
        last = sentences.pop()
        sentences[-1] += last
    return [sum(losses) / len(losses) for losses in sentences]


def distinct_share(answers: Sequence[Sample]) -> float:
    """Return the share of distinct answers among those to one prompt, mean over the prompts."""
    by_prompt: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for answer in answers:
        by_prompt.setdefault(answer.prompt, []).append(answer.token_ids)
    shares = [len(set(own)) / len(own) for own in by_prompt.values()]
    return sum(shares) / len(shares)
