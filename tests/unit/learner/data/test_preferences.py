"""Every kind of feedback becomes the right example, from recorded token ids."""

from dataclasses import dataclass, replace

import pytest

from learner.data.preferences import (
    PreferenceExample,
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


def test_split_is_by_the_prompt_alone_in_the_shares_asked_for() -> None:
    keys = [prompt_key([{"role": "user", "content": str(i)}]) for i in range(4000)]
    splits = [prompt_split(k, held_out_share=0.15, judge_share=0.3) for k in keys]
    assert splits == [prompt_split(k, held_out_share=0.15, judge_share=0.3) for k in keys]
    assert splits.count("held_out") / 4000 == pytest.approx(0.15, abs=0.02)
    assert splits.count("judge") / 4000 == pytest.approx(0.85 * 0.3, abs=0.02)


def test_the_same_question_with_spaces_around_it_is_in_the_same_split() -> None:
    assert prompt_key([{"role": "user", "content": " Hi "}]) == KEY
