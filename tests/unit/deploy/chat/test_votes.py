"""The bodies of votes, and the queue of those not yet sent."""

from typing import Any

import pytest

from deploy.chat.keys import parse_key
from deploy.chat.votes import RequestError, Vote, VoteQueue, feedback_of
from feedback.api.schema import FeedbackRequest


@pytest.mark.parametrize(
    ("key", "shown", "feedback"),
    [
        ("u", [0], {"kind": "rating", "choice": 0, "value": "up"}),
        ("d", [1], {"kind": "rating", "choice": 1, "value": "down"}),
        ("a", [0, 1], {"kind": "comparison", "left": 0, "right": 1, "verdict": "left"}),
        ("b", [0, 1], {"kind": "comparison", "left": 0, "right": 1, "verdict": "right"}),
        ("t", [0, 1], {"kind": "comparison", "left": 0, "right": 1, "verdict": "tie"}),
        ("d", [1, 3], {"kind": "comparison", "left": 1, "right": 3, "verdict": "right"}),
        ("b", [0, 1, 2], {"kind": "ranking", "groups": [[1], [0, 2]]}),
        ("t", [0, 1, 2, 3], {"kind": "ranking", "groups": [[0, 1, 2, 3]]}),
    ],
)
def test_feedback_of_keys(key: str, shown: list[int], feedback: dict[str, Any]) -> None:
    action = parse_key(key, shown)
    assert action is not None
    assert feedback_of(action, shown) == feedback
    FeedbackRequest.model_validate({"completion_id": "chatcmpl-1", "feedback": feedback})


class Server:
    """Raises the given errors first, and keeps the votes that it accepts."""

    def __init__(self) -> None:
        self.failures: list[RequestError] = []
        self.accepted: list[Vote] = []

    def send(self, vote: Vote) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.accepted.append(vote)


def test_a_vote_that_failed_is_sent_with_the_next_under_the_same_key() -> None:
    server = Server()
    server.failures = [RequestError("busy", temporary=True)]
    queue, votes = VoteQueue(server.send), [Vote({"completion_id": "1"}), Vote({})]
    queue.add(votes[0])
    with pytest.raises(RequestError, match="busy"):
        queue.flush()
    assert len(queue) == 1
    queue.add(votes[1])
    queue.flush()
    assert server.accepted == votes
    assert len({vote.key for vote in votes}) == 2
    assert len(queue) == 0


def test_a_refused_vote_is_dropped_alone() -> None:
    server = Server()
    server.failures = [RequestError("gone", temporary=False)]
    queue, votes = VoteQueue(server.send), [Vote({}), Vote({})]
    for vote in votes:
        queue.add(vote)
    with pytest.raises(RequestError, match="gone"):
        queue.flush()
    queue.flush()
    assert server.accepted == votes[1:]
