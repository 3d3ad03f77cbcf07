"""From judged events to training examples: token ids, ranks and approval, one shape for all kinds.

Token ids are those that were prompted and sampled, never re-tokenised; only a demonstration,
which nobody sampled, is tokenised here.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from learner.settings import RewardSettings
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import Candidate, Comparison, FeedbackEvent, Ranking, Rating

Split = Literal["held_out", "judge", "reward"]


class JoinedEvent(Protocol):
    """An event with the completions it is about (feedback.ledger.JoinedEvent)."""

    @property
    def event(self) -> FeedbackEvent:
        """The opinion."""
        ...

    @property
    def completions(self) -> dict[str, CompletionRecord]:
        """The records that it is about, by completion id."""
        ...


@dataclass(frozen=True, slots=True)
class PreferenceExample:
    """One opinion.

    Attributes:
        key: Hash of the prompt, by which it is split.
        sequences: Prompt and answer tokens of each candidate.
        lengths: Tokens of each answer, with which its sequence ends.
        ranks: Each candidate's rank, 0 is best, equal is a tie; empty where none are compared.
        approvals: Approval in [0, 1] of each candidate; empty where none was given.
        rater: Who gave it; the users that an owner does not tell apart are one. Empty is believed.

    """

    key: str
    sequences: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    ranks: tuple[int, ...] = ()
    approvals: tuple[float, ...] = ()
    rater: str = ""


def prompt_key(messages: Sequence[dict[str, str]]) -> str:
    """Return the hash of a conversation's messages."""
    plain = json.dumps([[m["role"], m["content"].strip()] for m in messages])
    return hashlib.sha256(plain.encode()).hexdigest()


def prompt_split(key: str, *, held_out_share: float, judge_share: float) -> Split:
    """Return the part that a prompt belongs to; it never moves while the shares stay."""
    first, second = int(key[:8], 16) / 2**32, int(key[8:16], 16) / 2**32
    if first < held_out_share:
        return "held_out"
    return "judge" if second < judge_share else "reward"


def split_examples(
    found: Iterable[PreferenceExample], settings: RewardSettings
) -> dict[Split, list[PreferenceExample]]:
    """Put every example where its prompt belongs."""
    parts: dict[Split, list[PreferenceExample]] = {"reward": [], "judge": [], "held_out": []}
    for example in found:
        split = prompt_split(
            example.key,
            held_out_share=settings.held_out_share,
            judge_share=settings.judge_share,
        )
        parts[split].append(example)
    return parts


def preference_examples(
    events: Iterable[JoinedEvent], encode_answer: Callable[[str], list[int]], *, context: int
) -> list[PreferenceExample]:
    """Turn judged events into examples; comments, and what was not recorded, teach nothing.

    Args:
        encode_answer: Tokens of an answer that was written rather than sampled, with its end.
        context: The last so many tokens of a longer sequence are kept.

    """
    found = []
    for judged in events:
        example = _build_example(judged, encode_answer)
        if example is not None:
            cut = tuple(s[-context:] for s in example.sequences)
            lengths = tuple(min(length, context) for length in example.lengths)
            rater = f"{judged.event.owner}/{judged.event.subject}"
            found.append(replace(example, sequences=cut, lengths=lengths, rater=rater))
    return found


def _build_example(
    judged: JoinedEvent, encode_answer: Callable[[str], list[int]]
) -> PreferenceExample | None:
    event = judged.event
    match event.WhichOneof("kind"):
        case "comparison":
            return _comparison(judged, event.comparison)
        case "ranking":
            return _ranking(judged, event.ranking)
        case "rating":
            up = event.rating.value == Rating.VALUE_UP
            return _build(judged, [event.rating.candidate], approvals=(1.0 if up else 0.0,))
        case "score":
            return _build(judged, [event.score.candidate], approvals=(event.score.score,))
        case "demonstration":
            return _demonstration(judged, encode_answer)
    return None


def _comparison(judged: JoinedEvent, comparison: Comparison) -> PreferenceExample | None:
    candidates = [comparison.left, comparison.right]
    match comparison.verdict:
        case Comparison.VERDICT_LEFT:
            return _build(judged, candidates, ranks=(0, 1))
        case Comparison.VERDICT_RIGHT:
            return _build(judged, candidates, ranks=(1, 0))
        case Comparison.VERDICT_TIE:
            return _build(judged, candidates, ranks=(0, 0))
        case Comparison.VERDICT_BOTH_BAD:
            return _build(judged, candidates, ranks=(0, 0), approvals=(0.0, 0.0))
    return None


def _ranking(judged: JoinedEvent, ranking: Ranking) -> PreferenceExample | None:
    placed = [(c, rank) for rank, group in enumerate(ranking.groups) for c in group.candidates]
    if len(placed) < 2:
        return None
    return _build(judged, [c for c, _ in placed], ranks=tuple(rank for _, rank in placed))


def _demonstration(
    judged: JoinedEvent, encode_answer: Callable[[str], list[int]]
) -> PreferenceExample | None:
    demonstration = judged.event.demonstration
    original = _build(judged, [demonstration.candidate])
    if original is None:
        return None
    record = judged.completions[demonstration.candidate.completion_id]
    better = encode_answer(demonstration.text)
    return replace(
        original,
        sequences=((*record.prompt_token_ids, *better), original.sequences[0]),
        lengths=(len(better), original.lengths[0]),
        ranks=(0, 1),
    )


def _build(
    judged: JoinedEvent,
    candidates: Sequence[Candidate],
    *,
    ranks: tuple[int, ...] = (),
    approvals: tuple[float, ...] = (),
) -> PreferenceExample | None:
    sequences, lengths = [], []
    for candidate in candidates:
        record = judged.completions[candidate.completion_id]
        choice = next((c for c in record.choices if c.index == candidate.choice), None)
        if choice is None or not choice.token_ids or not record.prompt_token_ids:
            return None
        sequences.append((*record.prompt_token_ids, *choice.token_ids))
        lengths.append(len(choice.token_ids))
    record = judged.completions[candidates[0].completion_id]
    return PreferenceExample(
        record_prompt_key(record), tuple(sequences), tuple(lengths), ranks, approvals
    )


def record_prompt_key(record: CompletionRecord) -> str:
    """Return the hash of what a completion answers."""
    if record.messages:
        return prompt_key([{"role": m.role, "content": m.content} for m in record.messages])
    return prompt_key([{"role": "text", "content": record.prompt}])
