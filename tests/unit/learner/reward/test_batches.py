"""No batch of votes is larger than a forward pass may be, whatever people rank."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from learner.data.preferences import PreferenceExample, fit_into_batch
from learner.reward.batches import build_preference_batches
from learner.settings import RewardSettings

SETTINGS = RewardSettings(micro_tokens=4096)


def ranked(candidates: int, length: int) -> PreferenceExample:
    sequences = tuple((1, *[2 + i] * length) for i in range(candidates))
    return PreferenceExample("k", sequences, (length,) * candidates, tuple(range(candidates)))


@pytest.mark.parametrize("shared", [True, False])
def test_no_batch_exceeds_the_bound(shared: bool) -> None:
    votes = [ranked(128, 490), ranked(2, 2047), ranked(9, 400), ranked(16, 63)]
    votes.append(PreferenceExample("k", ((1,) * 2000,), (5,), approvals=(1.0,)))
    examples = [fit_into_batch(vote, SETTINGS.micro_tokens, shared=shared) for vote in votes]
    model: Any = SimpleNamespace(shares_prompt=shared, pad=0, device=torch.device("cpu"))
    batches = build_preference_batches(model, examples, SETTINGS)
    assert sorted(i for batch in batches for i in batch.members) == list(range(len(votes)))
    sizes = [batch.answers.ids_RT.numel() for batch in batches]
    assert max(sizes) <= SETTINGS.micro_tokens
