"""Votes on a running server: accepted, repeated, refused, and the table of errors."""

from typing import Any

import httpx
import pytest

from feedback.privacy.identity import create_completion_id, load_or_create_secret, owner_of
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent
from tests.support.servers import Plaudit

UP = {"kind": "rating", "choice": 0, "value": "up"}


@pytest.fixture(scope="module")
def completion_id(plaudit: Plaudit) -> str:
    answer = plaudit.openai().chat.completions.create(
        model="plaudit", n=4, max_tokens=4, messages=[{"role": "user", "content": "Hi"}]
    )
    return answer.id


@pytest.mark.parametrize(
    "feedback",
    [
        UP,
        {"kind": "score", "choice": 1, "score": 0.8},
        {"kind": "comparison", "left": 0, "right": 1, "verdict": "both_bad"},
        {"kind": "ranking", "groups": [[2], [0, 1], [3]]},
        {"kind": "demonstration", "choice": 0, "text": "a better answer"},
        {"kind": "comment", "choice": 0, "text": "nice"},
    ],
)
def test_each_kind_is_accepted_and_logged(
    plaudit: Plaudit, completion_id: str, feedback: Any
) -> None:
    response = plaudit.vote(completion_id, feedback, user="anna", shown=[1, 0], decision_ms=2150)
    assert response.status_code == 201
    answer = response.json()
    assert answer["object"] == "feedback"
    assert answer["feedback"] == feedback
    assert answer["policy_version"] == plaudit.version()
    events = {e.event_id: e for e in map(FeedbackEvent.FromString, plaudit.read_all("feedback"))}
    event = events[answer["id"]]
    assert event.WhichOneof("kind") == feedback["kind"]
    assert list(event.shown) == [1, 0]
    assert event.decision_ms == 2150


def test_the_same_key_twice_is_one_event(plaudit: Plaudit, completion_id: str) -> None:
    body = {"completion_id": completion_id, "feedback": UP}
    key = {"Idempotency-Key": "once"}
    first = plaudit.post("/v1/feedback", body, **key)
    again = plaudit.post("/v1/feedback", body, **key)
    other = plaudit.post("/v1/feedback", {**body, "reason": "changed"}, **key)
    assert [r.status_code for r in (first, again, other)] == [201, 200, 409]
    assert first.json() == again.json()
    ids = [FeedbackEvent.FromString(v).event_id for v in plaudit.read_all("feedback")]
    assert ids.count(first.json()["id"]) == 1


def test_a_vote_can_be_read_and_retracted(plaudit: Plaudit, completion_id: str) -> None:
    voted = plaudit.vote(completion_id, UP, user="bert").json()
    headers = {"Authorization": f"Bearer {plaudit.key}"}
    url = f"{plaudit.url}/v1/feedback/{voted['id']}"
    assert httpx.get(url, headers=headers).json()["id"] == voted["id"]
    others = {"Authorization": f"Bearer {plaudit.other_key}"}
    assert httpx.get(url, headers=others).status_code == 404
    assert httpx.delete(url, headers=headers).json()["deleted"]
    assert httpx.get(url, headers=headers).status_code == 404


def bad_votes(plaudit: Plaudit, completion_id: str) -> dict[str, tuple[httpx.Response, int]]:
    """Return the response and the expected status of each kind of bad vote."""
    secret = load_or_create_secret(plaudit.home / "secret.json")
    owner = owner_of(secret, plaudit.key)
    expired = create_completion_id(secret, owner, 2, 1, now=0.0)
    forged = completion_id[:-4] + ("AAAA" if completion_id[-4:] != "AAAA" else "BBBB")
    good = {"completion_id": completion_id, "feedback": UP}
    headers = {"Authorization": f"Bearer {plaudit.key}", "Content-Type": "application/json"}
    raw = httpx.post(f"{plaudit.url}/v1/feedback", content=b"{", headers=headers)
    out_of_range = {"kind": "score", "choice": 0, "score": 3}
    with_itself = {"kind": "comparison", "left": 0, "right": 0, "verdict": "left"}
    twice = {"kind": "ranking", "groups": [[0], [0, 1]]}
    return {
        "not JSON": (raw, 400),
        "unknown field": (plaudit.post("/v1/feedback", {**good, "colour": "red"}), 400),
        "unknown kind": (plaudit.vote(completion_id, {**UP, "kind": "star"}), 400),
        "no such choice": (plaudit.vote(completion_id, {**UP, "choice": 4}), 400),
        "score out of range": (plaudit.vote(completion_id, out_of_range), 400),
        "compared with itself": (plaudit.vote(completion_id, with_itself), 400),
        "candidate ranked twice": (plaudit.vote(completion_id, twice), 400),
        "no completion id": (plaudit.post("/v1/feedback", {"feedback": UP}), 400),
        "forged id": (plaudit.vote(forged, UP), 404),
        "somebody else's": (plaudit.post("/v1/feedback", good, key=plaudit.other_key), 404),
        "expired": (plaudit.vote(expired, UP), 410),
        "wrong API key": (plaudit.post("/v1/feedback", good, key="stolen"), 401),
        "too large": (plaudit.vote(completion_id, UP, reason="x" * 300_000), 413),
    }


def test_bad_votes_get_their_documented_status(plaudit: Plaudit, completion_id: str) -> None:
    before = len(plaudit.read_all("feedback"))
    for problem, (response, status) in bad_votes(plaudit, completion_id).items():
        print(f"{problem:24} {response.status_code} {response.text}")
        assert response.status_code == status, problem
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, problem
        assert len(error["message"]) > 20, problem
    assert len(plaudit.read_all("feedback")) == before
