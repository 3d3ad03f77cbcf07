"""The divergence on text from a reference."""

from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from learner.data.packing import IGNORED
from learner.models.parameters import copy_shared
from learner.pretraining.next_token import rows_divergence, rows_loss
from tests.support.tiny import text


def test_divergence_on_text_is_the_mean_kl_and_zero_for_an_unchanged_policy(
    model: PreTrainedModel,
) -> None:
    rows = text()
    labels_NT = rows.labels_NT.clone()
    labels_NT[:, :3] = IGNORED
    rows = replace(rows, labels_NT=labels_NT)
    policy = copy_shared(model)
    divergence, loss = rows_divergence(policy, model, rows)
    divergence.backward()
    assert divergence.item() == pytest.approx(0, abs=1e-6)
    assert max(p.grad.abs().max().item() for p in policy.parameters() if p.grad is not None) < 1e-6
    assert loss.item() == pytest.approx(rows_loss(model, rows).item(), rel=1e-5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)
        divergence, loss = rows_divergence(policy, model, rows)
        p, q = (
            one(input_ids=rows.input_ids_NT, use_cache=False).logits[:, 2:-1].softmax(-1)
            for one in (model, policy)
        )
    assert divergence.item() == pytest.approx((p * (p / q).log()).sum(-1).mean().item(), rel=1e-4)
    assert divergence.item() > 0.01
    assert loss.item() == pytest.approx(rows_loss(policy, rows).item(), rel=1e-5)
