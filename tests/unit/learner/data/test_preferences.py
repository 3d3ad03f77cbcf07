"""Every kind of feedback becomes the right example, from recorded token ids."""

from dataclasses import dataclass, replace

import pytest

from learner.data.answers import split_prompt
from learner.data.preferences import (
    MAX_CANDIDATES,
    PreferenceExample,
    fit_into_batch,
    preference_examples,
    prompt_key,
    prompt_split,
)
from protos.plaudit.v1.completion_pb2 import Choice, CompletionRecord, Message
from protos.plaudit.v1.feedback_pb2 import (
    Candidate,
    Comment,
    Comparison,
    Demonstration,
    FeedbackEvent,
    Ranking,
    RankingGroup,
    Rating,
    Score,
)

PROMPT = [7, 8]
ANSWERS = [[10, 2], [11, 12, 2], [13, 2], [14, 2]]
KEY = prompt_key([{"role": "user", "content": "Hi"}])


@dataclass(frozen=True)
class Judged:
    event: FeedbackEvent
    completions: dict[str, CompletionRecord]
    seq: int = 0


RECORD = CompletionRecord(
    completion_id="c",
    messages=[Message(role="user", content="Hi")],
    prompt_token_ids=PROMPT,
    choices=[Choice(index=i, token_ids=ids) for i, ids in enumerate(ANSWERS)],
)


def candidate(choice: int) -> Candidate:
    return Candidate(completion_id="c", choice=choice)


def learn(event: FeedbackEvent, context: int = 100) -> list[PreferenceExample]:
    event.owner, event.subject = "key", "anne"
    found = preference_examples(
        [Judged(event, {"c": RECORD})], lambda text: [99, len(text), 2], context=context
    )
    assert all(example.rater == "key/anne" for example in found)
    return [replace(example, rater="") for example in found]


def whole(choice: int) -> tuple[int, ...]:
    return (*PROMPT, *ANSWERS[choice])


@pytest.mark.parametrize(
    ("verdict", "ranks", "approvals"),
    [
        (Comparison.VERDICT_LEFT, (0, 1), ()),
        (Comparison.VERDICT_RIGHT, (1, 0), ()),
        (Comparison.VERDICT_TIE, (0, 0), ()),
        (Comparison.VERDICT_BOTH_BAD, (0, 0), (0.0, 0.0)),
    ],
)
def test_comparison(
    verdict: Comparison.Verdict, ranks: tuple[int, ...], approvals: tuple[float, ...]
) -> None:
    comparison = Comparison(left=candidate(1), right=candidate(0), verdict=verdict)
    expected = PreferenceExample(KEY, (whole(1), whole(0)), (3, 2), ranks, approvals)
    assert learn(FeedbackEvent(comparison=comparison)) == [expected]


def test_ranking_is_one_example_with_ties_in_a_group() -> None:
    groups = [[2], [0, 1], [3]]
    ranking = Ranking(
        groups=[RankingGroup(candidates=[candidate(c) for c in group]) for group in groups]
    )
    assert learn(FeedbackEvent(ranking=ranking)) == [
        PreferenceExample(KEY, (whole(2), whole(0), whole(1), whole(3)), (2, 2, 3, 2), (0, 1, 1, 2))
    ]


def test_thumbs_and_scores_are_graded_approval() -> None:
    up = FeedbackEvent(rating=Rating(candidate=candidate(0), value=Rating.VALUE_UP))
    down = FeedbackEvent(rating=Rating(candidate=candidate(0), value=Rating.VALUE_DOWN))
    score = FeedbackEvent(score=Score(candidate=candidate(3), score=0.25))
    assert learn(up) == [PreferenceExample(KEY, (whole(0),), (2,), (), (1.0,))]
    assert learn(down) == [PreferenceExample(KEY, (whole(0),), (2,), (), (0.0,))]
    assert learn(score) == [PreferenceExample(KEY, (whole(3),), (2,), (), (0.25,))]


def test_demonstration_beats_the_original() -> None:
    event = FeedbackEvent(demonstration=Demonstration(candidate=candidate(1), text="better"))
    assert learn(event) == [PreferenceExample(KEY, ((*PROMPT, 99, 6, 2), whole(1)), (3, 3), (0, 1))]


def test_comment_and_unset_kind_teach_nothing() -> None:
    assert learn(FeedbackEvent(comment=Comment(candidate=candidate(0), text="hm"))) == []
    assert learn(FeedbackEvent()) == []


def test_what_was_not_recorded_teaches_nothing() -> None:
    event = FeedbackEvent(rating=Rating(candidate=candidate(9), value=Rating.VALUE_UP))
    assert learn(event) == []


def test_long_sequences_keep_their_end() -> None:
    event = FeedbackEvent(rating=Rating(candidate=candidate(1), value=Rating.VALUE_UP))
    assert learn(event, context=3)[0].sequences == ((11, 12, 2),)


def test_a_split_with_a_secret_cannot_be_foreseen_and_has_the_same_shares() -> None:
    keys = [prompt_key([{"role": "user", "content": str(i)}]) for i in range(4000)]
    open_split, first, second = (
        [prompt_split(k, held_out_share=0.15, secret=secret) for k in keys]
        for secret in (b"", b"one", b"two")
    )
    assert open_split == [prompt_split(k, held_out_share=0.15) for k in keys]
    assert first.count("held_out") / 4000 == pytest.approx(0.15, abs=0.02)
    for other in (open_split, second):
        same = sum(a == b == "held_out" for a, b in zip(first, other, strict=True))
        assert same / 4000 == pytest.approx(0.15**2, abs=0.01), "as by chance"


def test_split_is_by_the_prompt_alone_in_the_shares_asked_for() -> None:
    keys = [prompt_key([{"role": "user", "content": str(i)}]) for i in range(4000)]
    splits = [prompt_split(k, held_out_share=0.15) for k in keys]
    assert splits == [prompt_split(k, held_out_share=0.15) for k in keys]
    assert splits.count("held_out") / 4000 == pytest.approx(0.15, abs=0.02)


def test_the_same_question_with_spaces_around_it_is_in_the_same_split() -> None:
    assert prompt_key([{"role": "user", "content": " Hi "}]) == KEY


def large_ranking(candidates: int, length: int) -> PreferenceExample:
    """Return a ranking whose last candidate is the best, after a prompt of ten tokens."""
    sequences = tuple((*range(10), *[100 + i] * length) for i in range(candidates))
    ranks = tuple(range(candidates - 1, -1, -1))
    return PreferenceExample(KEY, sequences, (length,) * candidates, ranks, seq=3)


@pytest.mark.parametrize("shared", [True, False])
def test_a_ranking_never_has_more_tokens_than_a_batch(shared: bool) -> None:
    ranking = large_ranking(128, 490)
    fitted = fit_into_batch(ranking, 4096, shared=shared)
    rows = split_prompt(fitted.sequences, shared=shared)
    assert sum(row.length for row in rows) <= 4096
    assert len(fitted.sequences) == 8
    assert fitted.sequences[0] == ranking.sequences[0]
    assert fitted.sequences[-1] == ranking.sequences[-1]
    assert (fitted.ranks[0], fitted.ranks[-1]) == (127, 0), "the best and the worst are kept"
    assert list(fitted.ranks) == sorted(fitted.ranks, reverse=True)
    assert len(fitted.lengths) == len(fitted.ranks) == 8
    assert fitted.seq == 3


def test_a_ranking_of_many_short_answers_has_few_pairs() -> None:
    fitted = fit_into_batch(large_ranking(128, 1), 4096)
    assert len(fitted.sequences) == MAX_CANDIDATES
    assert (fitted.ranks[0], fitted.ranks[-1]) == (127, 0)


def test_what_fits_is_left_as_it_is() -> None:
    for example in (large_ranking(9, 100), large_ranking(2, 2038)):
        assert fit_into_batch(example, 4096) is example
    approval = PreferenceExample(KEY, ((1, 2, 3),), (1,), approvals=(1.0,))
    assert fit_into_batch(approval, 4096) is approval


def test_a_vote_of_which_no_example_can_be_made_stops_no_other() -> None:
    def encode(text: str) -> list[int]:
        if text == "poison":
            raise RuntimeError("the tokenizer panicked")
        return [5, 2]

    events = [
        Judged(
            FeedbackEvent(demonstration=Demonstration(candidate=candidate(0), text="poison")),
            {"c": RECORD},
            seq=1,
        ),
        Judged(FeedbackEvent(rating=Rating(candidate=candidate(1))), {}, seq=2),
        Judged(
            FeedbackEvent(comparison=Comparison(left=candidate(1), right=candidate(2), verdict=1)),
            {"c": RECORD},
            seq=3,
        ),
        Judged(FeedbackEvent(rating=Rating(candidate=candidate(0))), {"c": RECORD}, seq=4),
    ]
    unusable: dict[int, str] = {}
    found = preference_examples(
        events,
        encode,
        context=100,
        vocabulary=13,
        on_unusable=lambda joined, reason: unusable.update({joined.seq: reason}),
    )
    assert [example.seq for example in found] == [4]
    assert unusable.keys() == {1, 2, 3}
    assert unusable[1] == "no training example can be made of it: the tokenizer panicked"
    assert "token id 13 is not among the 13 of the model" in unusable[3]
