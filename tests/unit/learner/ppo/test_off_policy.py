"""Which answers PPO replays."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from learner.ppo.off_policy import off_policy_answers
from learner.settings import PPOSettings, RewardSettings
from protos.plaudit.v1.completion_pb2 import (
    Choice,
    CompletionRecord,
    Message,
    SamplingParameters,
    VersionSpan,
)
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent


@dataclass(frozen=True)
class Joined:
    completions: dict[str, CompletionRecord]
    event: FeedbackEvent = field(default_factory=FeedbackEvent)
    seq: int = 1


def replayed(
    prompt: Sequence[int], answer: Sequence[int], log_prob: float = -1.0, **bounds: int
) -> list[tuple[int, ...]]:
    """Return the answers that are replayed of one answer that was rated."""
    record = CompletionRecord(
        completion_id="c",
        messages=[Message(role="user", content="Hi")],
        prompt_token_ids=prompt,
        sampling=SamplingParameters(temperature=1.0, off_policy_usable=True),
        choices=[
            Choice(
                token_ids=answer,
                log_probs=[log_prob] * len(answer),
                versions=[VersionSpan(policy_version=2, start=0, end=len(answer))],
                finish_reason="stop",
            )
        ],
    )
    found = off_policy_answers(
        [Joined({"c": record})],
        version=3,
        ppo=PPOSettings(micro_tokens=100),
        reward=RewardSettings(held_out_share=1e-9),
        split_secret=b"",
        **bounds,
    )
    return [answer.sample.token_ids for answer in found]


def test_an_answer_that_fills_a_batch_is_replayed_and_a_longer_one_is_not() -> None:
    assert replayed([1] * 10, [2] * 90) == [(2,) * 90]
    assert replayed([1] * 10, [2] * 91) == []
    assert replayed([1] * 10, [2] * 30, context=39) == []


def test_an_answer_of_another_vocabulary_is_not_replayed() -> None:
    assert replayed([1], [7], vocabulary=8) == [(7,)]
    assert replayed([1], [8], vocabulary=8) == []
    assert replayed([8], [1], vocabulary=8) == []


@pytest.mark.parametrize("log_prob", [math.nan, -math.inf])
def test_an_answer_without_a_probability_is_not_replayed(log_prob: float) -> None:
    assert replayed([1], [7], log_prob) == []
