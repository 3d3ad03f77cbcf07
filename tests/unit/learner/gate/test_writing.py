"""Fluency and diversity against values worked out by hand."""

from learner.gate.writing import Fluency, distinct_share, fluency, sentence_losses
from learner.sampling.sampler import Sample

TOKENS = {1: "Tea", 2: " is", 3: " hot.", 4: " Is", 5: " it?", 9: "<end>"}


def answer(*token_ids: int, prompt: int = 7) -> Sample:
    return Sample((prompt,), token_ids, tuple(0.0 for _ in token_ids), True)


def test_each_sentence_has_a_loss_and_the_end_token_belongs_to_the_last() -> None:
    losses = sentence_losses(
        (1, 2, 3, 4, 5, 9), (-1.0, -2.0, -3.0, -4.0, -4.0, -1.0), TOKENS.__getitem__
    )
    assert losses == [2.0, 3.0]
    assert sentence_losses((1, 2), (-1.0, -2.0), TOKENS.__getitem__) == [1.5]
    assert sentence_losses((9,), (-5.0,), TOKENS.__getitem__) == [5.0]


def test_one_broken_sentence_is_seen_among_good_ones() -> None:
    """13 nats on 8 tokens. The worst sentence of the first has 3, the only one of the other 5/4."""
    answers = [answer(1, 3, 4, 5), answer(1, 2, 3, 9)]
    log_probs = [(0.0, -2.0, -3.0, -3.0), (-1.0, -1.0, -1.0, -2.0)]
    found = fluency(answers, log_probs, TOKENS.__getitem__)
    assert found == Fluency(mean=13 / 8, worst=(3.0 + 1.25) / 2)


def test_distinct_answers_are_counted_for_each_prompt() -> None:
    repeated = [answer(1), answer(1), answer(1), answer(2)]
    others = [answer(n, prompt=8) for n in (1, 2, 3, 4)]
    assert distinct_share([*repeated, *others]) == (0.5 + 1.0) / 2
