"""Opinions of many kinds about many answers, laid out for one forward pass and one loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from learner.data.answers import AnswerBatch, build_answer_batch, split_prompt
from learner.data.batching import group_by_length
from learner.data.preferences import PreferenceExample
from learner.reward.likelihoods import approval_log_likelihoods, pair_log_likelihoods


@dataclass(frozen=True, slots=True)
class Opinions:
    """E opinions about A answers: P pairs that somebody ranked, M answers with approval.

    Attributes:
        count: E.
        first_P: Answer of each pair; with `second_P`.
        outcomes_P: 0 where the first was preferred, 1 the second, 2 a tie.
        of_P: Which opinion a pair is part of; `of_M` likewise.
        share_P: One over the number of pairs of that opinion; `share_M` likewise. So all pairs of
            a ranking count as one opinion (Ouyang et al. 2022, arXiv:2203.02155, 3.5).

    """

    count: int
    first_P: Tensor
    second_P: Tensor
    outcomes_P: Tensor
    of_P: Tensor
    share_P: Tensor
    approved_M: Tensor
    approvals_M: Tensor
    of_M: Tensor
    share_M: Tensor

    def log_likelihoods(
        self, scores_A: Tensor, log_tie: Tensor, offset: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the log-likelihood of each opinion and of its opposite, [E], in nats.

        What has ranks and approval counts for both. The opposite of a tie is that tie.

        Args:
            log_tie: log nu of Davidson's model.
            offset: The score at which people are as likely to approve as not.

        """
        pairs = pair_log_likelihoods(self.differences(scores_A), self.outcomes_P, log_tie)
        single = approval_log_likelihoods(scores_A[self.approved_M] - offset, self.approvals_M)
        meant_E, opposite_E = (
            scores_A.new_zeros(self.count)
            .index_add(0, self.of_P, pair_P * self.share_P)
            .index_add(0, self.of_M, one_M * self.share_M)
            for pair_P, one_M in zip(pairs, single, strict=True)
        )
        return meant_E, opposite_E

    def differences(self, scores_A: Tensor) -> Tensor:
        """Return score of the first less score of the second of each pair, [P]."""
        return scores_A[self.first_P] - scores_A[self.second_P]


@dataclass(frozen=True, slots=True)
class PreferenceBatch:
    """Opinions and the answers that they are about, for one forward pass.

    Attributes:
        members: The opinions, by their place among those that were laid out.
        answers: Those to one prompt in one row where the model allows it, so that each is read
            once whatever the number of its pairs.

    """

    members: list[int]
    answers: AnswerBatch
    opinions: Opinions


def batch_preferences(
    examples: Sequence[PreferenceExample],
    *,
    micro_tokens: int,
    shared: bool,
    pad: int,
    device: torch.device,
) -> list[PreferenceBatch]:
    """Group opinions of like length so that a forward pass has at most `micro_tokens` tokens.

    Args:
        shared: Whether the answers of an opinion may share a row (`can_share`).

    """
    rows = [split_prompt(example.sequences, shared=shared) for example in examples]
    lengths = [max(row.length for row in own) * len(own) for own in rows]
    return [
        PreferenceBatch(
            members,
            build_answer_batch([row for i in members for row in rows[i]], pad=pad, device=device),
            preference_labels([examples[i] for i in members], device),
        )
        for members in group_by_length(lengths, micro_tokens)
    ]


def preference_labels(examples: Sequence[PreferenceExample], device: torch.device) -> Opinions:
    """Return the opinions about the answers of all examples, in order."""
    pairs: list[tuple[int, int, int, int, float]] = []
    singles: list[tuple[int, float, int, float]] = []
    start = 0
    for number, example in enumerate(examples):
        ranks, count = example.ranks, len(example.sequences)
        own = list(combinations(range(count), 2)) if ranks else []
        for a, b in own:
            outcome = 2 if ranks[a] == ranks[b] else int(ranks[a] > ranks[b])
            pairs.append((start + a, start + b, outcome, number, 1 / len(own)))
        for place, approval in enumerate(example.approvals):
            singles.append((start + place, approval, number, 1 / count))
        start += count

    def columns(found: Sequence[tuple[float, ...]], kinds: Sequence[torch.dtype]) -> list[Tensor]:
        turned = zip(*found, strict=True) if found else [() for _ in kinds]
        return [torch.tensor(c, dtype=k, device=device) for c, k in zip(turned, kinds, strict=True)]

    whole, real = torch.long, torch.float32
    return Opinions(
        len(examples),
        *columns(pairs, (whole, whole, whole, whole, real)),
        *columns(singles, (whole, real, whole, real)),
    )
