"""Build training examples from joined events: token ids with ranks, approvals or both.

Prompts and sampled answers keep the token ids of the completion record and are never tokenised
again. Only a demonstration, which was not sampled, is tokenised here.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from learner.data.answers import split_prompt
from learner.errors import DataUnusable, ModelUnusable
from learner.settings import RewardSettings
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import Candidate, Comparison, FeedbackEvent, Ranking, Rating

Split = Literal["held_out", "reward"]

MAX_CANDIDATES: Final = (
    32  # of a ranking that are learned from; a ranking of n has n (n - 1)/2 pairs
)


class JoinedEvent(Protocol):
    """A vote with the completion records that it refers to (see `feedback.ledger.rows`)."""

    @property
    def seq(self) -> int:
        """Number of the vote in the ledger."""
        ...

    @property
    def event(self) -> FeedbackEvent:
        """The feedback event."""
        ...

    @property
    def completions(self) -> dict[str, CompletionRecord]:
        """The completion records that it refers to, by completion id."""
        ...


@dataclass(frozen=True, slots=True)
class PreferenceExample:
    """The training example of one vote.

    Attributes:
        key: Hash of the prompt, which decides the split.
        sequences: Token ids of prompt and answer for each candidate.
        lengths: Number of answer tokens at the end of each sequence.
        ranks: Rank of each candidate, 0 for the best and equal for a tie; empty if the vote
            compares none.
        approvals: Approval of each candidate in [0, 1]; empty if the vote gives none.
        rater: Owner and subject of the vote. Users without a subject count as one rater. An empty
            rater is considered reliable.
        seq: Number of the vote in the ledger; 0 if it is not from a ledger.
        weight: Share of a whole vote that the example counts for (`learner.data.owner_bound`).

    """

    key: str
    sequences: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    ranks: tuple[int, ...] = ()
    approvals: tuple[float, ...] = ()
    rater: str = ""
    seq: int = 0
    weight: float = 1.0


def prompt_key(messages: Sequence[dict[str, str]]) -> str:
    """Return a hash of a conversation's messages."""
    plain = json.dumps([[m["role"], m["content"].strip()] for m in messages])
    return hashlib.sha256(plain.encode()).hexdigest()


def prompt_split(key: str, *, held_out_share: float, secret: bytes = b"") -> Split:
    """Return the split that a prompt belongs to; it depends only on the arguments.

    Args:
        key: Hash of the prompt.
        held_out_share: Share of the prompts that are held out.
        secret: Secret without which nobody can foresee the split; empty for the split of earlier
            releases.

    """
    if secret:
        key = hmac.digest(secret, key.encode(), "sha256").hex()
    return "held_out" if int(key[:8], 16) / 2**32 < held_out_share else "reward"


def split_examples(
    found: Iterable[PreferenceExample], settings: RewardSettings, secret: bytes
) -> dict[Split, list[PreferenceExample]]:
    """Assign every example to the split of its prompt (see `prompt_split`)."""
    parts: dict[Split, list[PreferenceExample]] = {"reward": [], "held_out": []}
    for example in found:
        split = prompt_split(example.key, held_out_share=settings.held_out_share, secret=secret)
        parts[split].append(example)
    return parts


def preference_examples(
    events: Iterable[JoinedEvent],
    encode_answer: Callable[[str], list[int]],
    *,
    context: int,
    vocabulary: int | None = None,
    on_unusable: Callable[[JoinedEvent, str], None] = lambda *_: None,
) -> list[PreferenceExample]:
    """Build the training examples of joined events.

    Comments, and votes on answers without recorded token ids, are skipped.

    Args:
        events: Votes with their completion records.
        encode_answer: Function from a written answer to its token ids, with the end token.
        context: Maximum length of a sequence; a longer one keeps its last tokens.
        vocabulary: Number of token ids that the model knows; None if any may occur.
        on_unusable: Called with each vote of which no example can be made, and the reason.

    Raises:
        ModelUnusable: The model's tokenizer has no end token.

    """
    found = []
    for joined in events:
        try:
            example = _build_example(joined, encode_answer)
            if example is not None:
                found.append(_complete(example, joined, context, vocabulary))
        except (ModelUnusable, MemoryError):  # no fault of the vote
            raise
        except Exception as error:  # noqa: BLE001  one vote must not stop the others
            on_unusable(joined, f"no training example can be made of it: {error}")
    return found


def _complete(
    example: PreferenceExample, joined: JoinedEvent, context: int, vocabulary: int | None
) -> PreferenceExample:
    """Truncate an example's sequences, and add who voted.

    Raises:
        DataUnusable: A token id is not in the vocabulary.

    """
    cut = tuple(s[-context:] for s in example.sequences)
    largest = max(map(max, cut))
    if vocabulary is not None and largest >= vocabulary:
        raise DataUnusable(
            f"its token id {largest} is not among the {vocabulary} of the model, so it belongs to "
            "another model"
        )
    return replace(
        example,
        sequences=cut,
        lengths=tuple(min(length, context) for length in example.lengths),
        rater=f"{joined.event.owner}/{joined.event.subject}",
        seq=joined.seq,
    )


def fit_into_batch(
    example: PreferenceExample, tokens: int, *, shared: bool = True
) -> PreferenceExample:
    """Return an example with at most as many candidates as fit into one forward pass.

    A ranking that is too large keeps its best, its worst and others evenly in between. Split into
    several examples, one vote would count as several.

    Args:
        example: Example whose sequences have at most half of `tokens` each, so that two fit.
        tokens: Maximum number of tokens in the rows of the example.
        shared: Whether its answers share the row of their prompt.

    """
    order = sorted(range(len(example.ranks)), key=lambda i: example.ranks[i])
    kept, size = example, _row_tokens(example, shared)
    count = min(len(order), MAX_CANDIDATES)
    while len(order) > 2 and (size > tokens or count < len(kept.sequences)):
        kept = _pick(example, [order[i * (len(order) - 1) // (count - 1)] for i in range(count)])
        size = _row_tokens(kept, shared)
        if count == 2:
            break
        if size > tokens:
            count = max(2, min(count - 1, count * tokens // size))
    return kept


def _row_tokens(example: PreferenceExample, shared: bool) -> int:
    rows = split_prompt(example.sequences, shared=shared)
    return max(row.length for row in rows) * len(rows)


def _pick(example: PreferenceExample, picked: Sequence[int]) -> PreferenceExample:
    """Return the example with these candidates only, in their order."""
    picked = sorted(picked)
    return replace(
        example,
        sequences=tuple(example.sequences[i] for i in picked),
        lengths=tuple(example.lengths[i] for i in picked),
        ranks=tuple(example.ranks[i] for i in picked),
        approvals=tuple(example.approvals[i] for i in picked) if example.approvals else (),
    )


def _build_example(
    joined: JoinedEvent, encode_answer: Callable[[str], list[int]]
) -> PreferenceExample | None:
    event = joined.event
    match event.WhichOneof("kind"):
        case "comparison":
            return _comparison(joined, event.comparison)
        case "ranking":
            return _ranking(joined, event.ranking)
        case "rating":
            up = event.rating.value == Rating.VALUE_UP
            return _build(joined, [event.rating.candidate], approvals=(1.0 if up else 0.0,))
        case "score":
            return _build(joined, [event.score.candidate], approvals=(event.score.score,))
        case "demonstration":
            return _demonstration(joined, encode_answer)
    return None


def _comparison(joined: JoinedEvent, comparison: Comparison) -> PreferenceExample | None:
    candidates = [comparison.left, comparison.right]
    match comparison.verdict:
        case Comparison.VERDICT_LEFT:
            return _build(joined, candidates, ranks=(0, 1))
        case Comparison.VERDICT_RIGHT:
            return _build(joined, candidates, ranks=(1, 0))
        case Comparison.VERDICT_TIE:
            return _build(joined, candidates, ranks=(0, 0))
        case Comparison.VERDICT_BOTH_BAD:
            return _build(joined, candidates, ranks=(0, 0), approvals=(0.0, 0.0))
    return None


def _ranking(joined: JoinedEvent, ranking: Ranking) -> PreferenceExample | None:
    ranked = [(c, rank) for rank, group in enumerate(ranking.groups) for c in group.candidates]
    if len(ranked) < 2:
        return None
    return _build(joined, [c for c, _ in ranked], ranks=tuple(rank for _, rank in ranked))


def _demonstration(
    joined: JoinedEvent, encode_answer: Callable[[str], list[int]]
) -> PreferenceExample | None:
    demonstration = joined.event.demonstration
    original = _build(joined, [demonstration.candidate])
    if original is None:
        return None
    record = joined.completions[demonstration.candidate.completion_id]
    written = encode_answer(demonstration.text)
    return replace(
        original,
        sequences=((*record.prompt_token_ids, *written), original.sequences[0]),
        lengths=(len(written), original.lengths[0]),
        ranks=(0, 1),
    )


def _build(
    joined: JoinedEvent,
    candidates: Sequence[Candidate],
    *,
    ranks: tuple[int, ...] = (),
    approvals: tuple[float, ...] = (),
) -> PreferenceExample | None:
    sequences, lengths = [], []
    for candidate in candidates:
        record = joined.completions[candidate.completion_id]
        choice = next((c for c in record.choices if c.index == candidate.choice), None)
        if choice is None or not choice.token_ids or not record.prompt_token_ids:
            return None
        sequences.append((*record.prompt_token_ids, *choice.token_ids))
        lengths.append(len(choice.token_ids))
    record = joined.completions[candidates[0].completion_id]
    return PreferenceExample(
        record_prompt_key(record), tuple(sequences), tuple(lengths), ranks, approvals
    )


def record_prompt_key(record: CompletionRecord) -> str:
    """Return the prompt key of a completion record."""
    if record.messages:
        return prompt_key([{"role": m.role, "content": m.content} for m in record.messages])
    return prompt_key([{"role": "text", "content": record.prompt}])
