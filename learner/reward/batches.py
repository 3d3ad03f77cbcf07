"""Batches of training examples for the reward model: answers to score, labels and losses."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from learner.data.answers import AnswerBatch, build_answer_batch, split_prompt
from learner.data.batching import group_by_length
from learner.data.preferences import PreferenceExample
from learner.reward.likelihoods import (
    approval_log_likelihoods,
    mixture_losses,
    pair_log_likelihoods,
)
from learner.reward.model import RewardModel
from learner.settings import RewardSettings


@dataclass(frozen=True, slots=True)
class PreferenceLabels:
    """Labels of E training examples about A answers: P ranked pairs and M approvals.

    Attributes:
        count: Number of training examples, E.
        first_P: Index of the first answer of each pair.
        second_P: Index of the second answer of each pair.
        outcomes_P: 0 if the first answer was preferred, 1 if the second, 2 for a tie.
        example_P: Index of the training example of each pair.
        weights_P: One over the number of pairs of that example, so that a ranking weighs as much
            as a single comparison (Ouyang et al. 2022, arXiv:2203.02155, 3.5).
        answer_M: Index of the answer of each approval.
        approvals_M: Approvals from 0 to 1.
        example_M: Index of the training example of each approval.
        weights_M: One over the number of answers of that example.

    """

    count: int
    first_P: Tensor
    second_P: Tensor
    outcomes_P: Tensor
    example_P: Tensor
    weights_P: Tensor
    answer_M: Tensor
    approvals_M: Tensor
    example_M: Tensor
    weights_M: Tensor

    def log_likelihoods(
        self, scores_A: Tensor, log_tie: Tensor, offset: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the log-likelihood of each example and of its opposite in nats, both [E].

        An example with ranks and approvals has the sum of both. A tie is its own opposite.

        Args:
            scores_A: Scores of the answers.
            log_tie: log nu of Davidson's model.
            offset: Score at which approval and disapproval are equally likely.

        """
        pairs = pair_log_likelihoods(self.differences(scores_A), self.outcomes_P, log_tie)
        approvals = approval_log_likelihoods(scores_A[self.answer_M] - offset, self.approvals_M)
        meant_E, opposite_E = (
            scores_A.new_zeros(self.count)
            .index_add(0, self.example_P, pairs_P * self.weights_P)
            .index_add(0, self.example_M, approvals_M * self.weights_M)
            for pairs_P, approvals_M in zip(pairs, approvals, strict=True)
        )
        return meant_E, opposite_E

    def differences(self, scores_A: Tensor) -> Tensor:
        """Return the score of the first answer minus that of the second for each pair, [P]."""
        return scores_A[self.first_P] - scores_A[self.second_P]


@dataclass(frozen=True, slots=True)
class PreferenceBatch:
    """Training examples of one forward pass.

    Attributes:
        members: Indices of the examples among all those that were batched.
        answers: The examples' answers. Answers to one prompt share a row where the model allows
            it, so that each token is read once whatever the number of pairs.
        labels: The examples' labels.

    """

    members: list[int]
    answers: AnswerBatch
    labels: PreferenceLabels


def build_preference_batches(
    model: RewardModel, examples: Sequence[PreferenceExample], settings: RewardSettings
) -> list[PreferenceBatch]:
    """Group examples of similar length into forward passes of at most `micro_tokens` tokens."""
    rows = [split_prompt(example.sequences, shared=model.shares_prompt) for example in examples]
    lengths = [max(row.length for row in example_rows) for example_rows in rows]
    counts = [len(example_rows) for example_rows in rows]
    return [
        PreferenceBatch(
            members,
            build_answer_batch(
                [row for i in members for row in rows[i]], pad=model.pad, device=model.device
            ),
            preference_labels([examples[i] for i in members], model.device),
        )
        for members in group_by_length(lengths, settings.micro_tokens, counts)
    ]


def preference_labels(
    examples: Sequence[PreferenceExample], device: torch.device
) -> PreferenceLabels:
    """Return the labels of the examples, whose answers are numbered in order."""
    pairs: list[tuple[int, int, int, int, float]] = []
    approvals: list[tuple[int, float, int, float]] = []
    start = 0
    for number, example in enumerate(examples):
        ranks, count = example.ranks, len(example.sequences)
        example_pairs = list(combinations(range(count), 2)) if ranks else []
        for a, b in example_pairs:
            outcome = 2 if ranks[a] == ranks[b] else int(ranks[a] > ranks[b])
            pairs.append((start + a, start + b, outcome, number, 1 / len(example_pairs)))
        for index, approval in enumerate(example.approvals):
            approvals.append((start + index, approval, number, 1 / count))
        start += count

    def columns(rows: Sequence[tuple[float, ...]], dtypes: Sequence[torch.dtype]) -> list[Tensor]:
        values = zip(*rows, strict=True) if rows else [() for _ in dtypes]
        return [
            torch.tensor(v, dtype=d, device=device) for v, d in zip(values, dtypes, strict=True)
        ]

    return PreferenceLabels(
        len(examples),
        *columns(pairs, (torch.long, torch.long, torch.long, torch.long, torch.float32)),
        *columns(approvals, (torch.long, torch.float32, torch.long, torch.float32)),
    )


def example_losses(
    model: RewardModel, batch: PreferenceBatch, reliability: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Return the loss of each training example in nats, [E], and the answers' scores, [A].

    Args:
        model: Reward model in training or evaluation.
        batch: Examples of one forward pass.
        reliability: Reliability of the rater of every example, indexed by `batch.members`.

    """
    scores_A = model(batch.answers)
    meant_E, opposite_E = batch.labels.log_likelihoods(scores_A, model.log_tie, model.offset)
    reliability_E = meant_E.new_tensor([reliability[i] for i in batch.members])
    return mixture_losses(meant_E, opposite_E, reliability_E), scores_A
