"""The features that the linear models read."""

import pytest
import torch
from transformers import PreTrainedModel

from learner.data.answers import build_answer_batch
from learner.data.preferences import PreferenceExample
from learner.models.forward import logits_and_states
from learner.reward.features import example_rows, feature_groups
from tests.support.tiny import END, answer_features


@pytest.mark.parametrize("micro_tokens", [20, 1000])
def test_states_are_means_over_the_answer_whatever_the_batch(
    model: PreTrainedModel, micro_tokens: int
) -> None:
    """By hand: embeddings and last states of the answer's own tokens."""
    examples = [
        PreferenceExample("0", ((2, 50, 3, 99, 98, END), (2, 50, 3, 97, END)), (3, 2), (0, 1)),
        PreferenceExample("1", ((2, 60, 61, 3, 96, END),), (2,), (), (1.0,)),
        PreferenceExample("2", ((70, 71, END),), (3,), (), (0.0,)),  # its prompt was cut off
    ]
    means = []
    for example in examples:
        for sequence, length in zip(example.sequences, example.lengths, strict=True):
            ids = torch.tensor([sequence])
            with torch.no_grad():
                out = model(ids, output_hidden_states=True)
            both = torch.cat([model.get_input_embeddings()(ids), out.hidden_states[-1]], dim=-1)
            means.append(both[0, -length:].mean(0))
    features = answer_features(model, micro_tokens).of(example_rows(examples))
    states = features[:, : feature_groups(features)[0]]
    torch.testing.assert_close(states, torch.stack(means), atol=1e-4, rtol=1e-4)


def test_features_of_a_batch_are_those_of_its_rows(model: PreTrainedModel) -> None:
    """PPO reads them from the forward pass that computes the reference's log-probabilities."""
    rows = example_rows(
        [
            PreferenceExample("0", ((2, 50, 3, 99, 98, END),), (3,), (), (1.0,)),
            PreferenceExample("1", ((2, 60, 61, 3, 96, END),), (2,), (), (1.0,)),
        ]
    )
    features = answer_features(model)
    batch = build_answer_batch(rows, pad=0, device=model.device)
    states = logits_and_states(model, batch, "float32")[2]
    torch.testing.assert_close(features.of_batch(batch, states), features.of(rows))
