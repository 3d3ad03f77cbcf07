"""Bodies: what is taken, what is refused with which words, and the way to events and back."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from feedback.api.http_errors import api_error_from_validation
from feedback.api.schema import FeedbackObject, FeedbackRequest
from feedback.api.translate import (
    body_digest,
    event_from_request,
    feedback_object,
    feedback_payload,
)
from feedback.log.events import find_defect
from feedback.privacy.identity import Secret, create_completion_id
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent, Source

RATING = {"kind": "rating", "choice": 0, "value": "up"}


def body(feedback: Any = RATING, **fields: Any) -> dict[str, Any]:
    return {"completion_id": "c1", "feedback": feedback, **fields}


def parse(content: Any) -> FeedbackRequest:
    return FeedbackRequest.model_validate_json(json.dumps(content))


def event(content: Any) -> FeedbackEvent:
    return event_from_request(
        parse(content), event_id="fb-1", owner="o", subject="s", created_ms=1_999
    )


def refusal(content: str) -> tuple[str, str | None, str]:
    with pytest.raises(ValidationError) as caught:
        FeedbackRequest.model_validate_json(content)
    error = api_error_from_validation(caught.value)
    assert error.status == 400
    return error.code, error.param, error.message


FEEDBACK: list[dict[str, Any]] = [
    {"kind": "rating", "choice": 0, "value": "up"},
    {"kind": "rating", "choice": 1, "value": "down"},
    {"kind": "score", "choice": 0, "score": 0.8},
    {"kind": "score", "choice": 0, "score": 0},
    {"kind": "score", "choice": 0, "score": 1.0},
    *(
        {"kind": "comparison", "left": 1, "right": 0, "verdict": verdict}
        for verdict in ("left", "right", "tie", "both_bad")
    ),
    {
        "kind": "comparison",
        "left": 0,
        "right": {"completion_id": "c2", "choice": 0},
        "verdict": "tie",
    },
    {"kind": "ranking", "groups": [[2], [0, 1], [3]]},
    {"kind": "ranking", "groups": [[0, {"completion_id": "c2", "choice": 5}]]},
    {"kind": "demonstration", "choice": 0, "text": "a better answer\n"},
    {"kind": "comment", "choice": 3, "text": "…"},
]


@pytest.mark.parametrize("feedback", FEEDBACK, ids=lambda o: o["kind"])
def test_feedback_comes_back_as_it_was_given(feedback: dict[str, Any]) -> None:
    made = event(body(feedback))
    assert find_defect(made) is None
    assert feedback_payload(FeedbackEvent.FromString(made.SerializeToString())) == feedback
    assert (
        FeedbackObject.model_validate(feedback_object(made)).feedback
        == parse(body(feedback)).feedback
    )


def test_a_choice_of_the_own_completion_comes_back_as_a_number() -> None:
    written_out = {**RATING, "choice": {"completion_id": "c1", "choice": 0}}
    assert feedback_payload(event(body(written_out))) == RATING


def test_an_event_holds_all_that_the_request_says() -> None:
    made = event(
        body(user="anne", reason="terse", source="annotator", shown=[1, 0], decision_ms=2150)
    )
    assert (made.event_id, made.owner, made.subject, made.created_ms) == ("fb-1", "o", "s", 1_999)
    assert (made.reason, made.source) == ("terse", Source.SOURCE_ANNOTATOR)
    assert (list(made.shown), made.decision_ms) == ([1, 0], 2150)
    assert made.target == "rating:c1/0"
    assert b"anne" not in made.SerializeToString()


def test_what_is_not_said_is_not_made_up() -> None:
    made = event(body())
    assert made.source == Source.SOURCE_API
    assert not made.HasField("decision_ms")
    assert (made.reason, list(made.shown), list(made.shown_candidates)) == ("", [], [])
    assert event(body(decision_ms=0)).HasField("decision_ms")


def test_what_was_shown_of_several_completions_keeps_its_order() -> None:
    made = event(body(shown=[{"completion_id": "c2", "choice": 1}, 0]))
    assert list(made.shown) == []
    assert [(c.completion_id, c.choice) for c in made.shown_candidates] == [("c2", 1), ("c1", 0)]


def test_an_answer_has_the_design_s_shape() -> None:
    secret = Secret("00000001", {"00000001": b"k" * 32}, b"i" * 32)
    completion_id = create_completion_id(secret, "o", 2, 3)
    answer = feedback_object(event({**body(), "completion_id": completion_id}))
    assert answer == {
        "id": "fb-1",
        "object": "feedback",
        "created": 1,
        "completion_id": completion_id,
        "policy_version": 3,
        "feedback": RATING,
        "learned_in": None,
    }
    assert feedback_object(event(body()), superseded=True)["superseded"] is True
    assert feedback_object(event(body()), learned_in=4)["learned_in"] == 4
    assert feedback_object(event(body()))["policy_version"] == 0, (
        "an id that is not of this service"
    )


def test_the_digest_is_of_what_the_body_says() -> None:
    first = parse(body(user="a"))
    reordered = FeedbackRequest.model_validate_json(
        '{ "user" : "a", "source": "api", "feedback":'
        ' {"value":"up","choice":0,"kind":"rating"}, "completion_id":"c1"}'
    )
    assert body_digest(first) == body_digest(reordered)
    others = [
        body(),
        body(user="b"),
        body(user="a", reason="r"),
        body({**RATING, "choice": 1}, user="a"),
    ]
    assert len({body_digest(first), *(body_digest(parse(other)) for other in others)}) == 5


REFUSED: dict[str, tuple[Any, str, str | None, str]] = {
    "no body": ("", "invalid_json", None, "The body is not valid JSON"),
    "cut": ('{"completion_id": "c1"', "invalid_json", None, "Send a JSON object"),
    "list": ([], "invalid_value", None, "The body must be a JSON object"),
    "nothing": ({}, "missing_field", "completion_id", "'completion_id' is missing. (1 more"),
    "unknown field": (body(vote=1), "unknown_field", "vote", "'vote' is not a known field"),
    "unknown inner": (
        body({**RATING, "weight": 2}),
        "unknown_field",
        "feedback.weight",
        "'feedback.weight' is not a known field",
    ),
    "no kind": (body({"choice": 0}), "invalid_value", "feedback.kind", "is missing: it is one of"),
    "unknown kind": (
        body({"kind": "like"}),
        "invalid_value",
        "feedback.kind",
        "must be one of rating, score, comparison, ranking, demonstration, comment",
    ),
    "retraction": (body({"kind": "retraction"}), "invalid_value", "feedback.kind", "one of"),
    "no feedback": (body(None), "invalid_value", "feedback", "'feedback' must be a JSON object"),
    "value": (
        body({**RATING, "value": "meh"}),
        "invalid_value",
        "feedback.value",
        "'feedback.value' must be 'up' or 'down'",
    ),
    "true is not 1": (
        body({**RATING, "choice": True}),
        "invalid_value",
        "feedback.choice",
        "'feedback.choice' must be an integer",
    ),
    "text is not 0": (
        body({**RATING, "choice": "0"}),
        "invalid_value",
        "feedback.choice",
        "integer",
    ),
    "1.0 is not 1": (
        body({**RATING, "choice": 1.0}),
        "invalid_value",
        "feedback.choice",
        "integer",
    ),
    "negative": (body({**RATING, "choice": -1}), "invalid_value", "feedback.choice", "at least 0"),
    "huge": (body({**RATING, "choice": 2**70}), "invalid_value", "feedback.choice", "at most"),
    "no choice": (
        body({"kind": "rating", "value": "up"}),
        "missing_field",
        "feedback.choice",
        "'feedback.choice' is missing",
    ),
    "half a candidate": (
        body({**RATING, "choice": {"choice": 0}}),
        "missing_field",
        "feedback.choice.completion_id",
        "is missing",
    ),
    "score above": (
        body({"kind": "score", "choice": 0, "score": 1.01}),
        "invalid_value",
        "feedback.score",
        "must be at most 1",
    ),
    "score true": (
        body({"kind": "score", "choice": 0, "score": True}),
        "invalid_value",
        "feedback.score",
        "must be a number",
    ),
    "score NaN": (
        body({"kind": "score", "choice": 0, "score": float("nan")}),
        "invalid_value",
        "feedback.score",
        "must be a finite number",
    ),
    "itself": (
        body({"kind": "comparison", "left": 1, "right": 1, "verdict": "tie"}),
        "invalid_value",
        "feedback",
        "names the same choice twice",
    ),
    "itself in disguise": (
        body({"kind": "ranking", "groups": [[0], [{"completion_id": "c1", "choice": 0}]]}),
        "invalid_value",
        "feedback",
        "names the same choice twice",
    ),
    "empty group": (
        body({"kind": "ranking", "groups": [[0, 1], []]}),
        "invalid_value",
        "feedback.groups[1]",
        "must not be empty",
    ),
    "no groups": (
        body({"kind": "ranking", "groups": []}),
        "invalid_value",
        "feedback.groups",
        "empty",
    ),
    "bad in a group": (
        body({"kind": "ranking", "groups": [[0, "1"]]}),
        "invalid_value",
        "feedback.groups[0][1]",
        "must be an integer",
    ),
    "one": (
        body({"kind": "ranking", "groups": [[0]]}),
        "invalid_value",
        "feedback",
        "at least two",
    ),
    "33": (
        body({"kind": "ranking", "groups": [list(range(30)), list(range(30, 33))]}),
        "invalid_value",
        "feedback",
        "ranks more than 32 choices; rank the best and the worst",
    ),
    "33 groups": (
        body({"kind": "ranking", "groups": [[i] for i in range(33)]}),
        "invalid_value",
        "feedback.groups",
        "must have at most 32 items",
    ),
    "of another": (
        body({**RATING, "choice": {"completion_id": "c2", "choice": 0}}),
        "invalid_value",
        "feedback",
        "must be about a choice of 'completion_id'",
    ),
    "blank": (
        body({"kind": "comment", "choice": 0, "text": " \n"}),
        "invalid_value",
        "feedback.text",
        "must not be blank",
    ),
    "long text": (
        body({"kind": "comment", "choice": 0, "text": "x" * 32_769}),
        "invalid_value",
        "feedback.text",
        "must have at most 32768 characters",
    ),
    "long reason": (body(reason="x" * 4097), "invalid_value", "reason", "at most 4096"),
    "long user": (body(user="x" * 257), "invalid_value", "user", "at most 256"),
    "user": (body(user=7), "invalid_value", "user", "must be a string"),
    "source": (body(source="bot"), "invalid_value", "source", "'page', 'api', 'annotator'"),
    "shown": (body(shown=[0, True]), "invalid_value", "shown[1]", "must be an integer"),
    "decision": (body(decision_ms=-1), "invalid_value", "decision_ms", "at least 0"),
    "no id": (
        {**body(), "completion_id": ""},
        "invalid_value",
        "completion_id",
        "must not be empty",
    ),
}


@pytest.mark.parametrize(
    ("content", "code", "param", "words"), REFUSED.values(), ids=REFUSED.keys()
)
def test_what_is_refused_is_explained_in_a_sentence(
    content: Any, code: str, param: str | None, words: str
) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    got_code, got_param, message = refusal(text)
    assert (got_code, got_param) == (code, param)
    assert words in message
    assert "<" not in message
    assert message.endswith((".", ")"))


def test_texts_that_no_utf8_can_hold_are_refused() -> None:
    code, _, _ = refusal('{"completion_id": "c1", "user": "\\ud800"}')
    assert code == "invalid_json"
    with pytest.raises(ValidationError) as caught:
        FeedbackRequest.model_validate_json(b'{"completion_id": "\xff"}')
    assert api_error_from_validation(caught.value).code == "invalid_json"


CHOICES = st.integers(0, 130) | st.builds(
    lambda completion_id, choice: {"completion_id": completion_id, "choice": choice},
    st.sampled_from(["c1", "c2"]),
    st.integers(0, 3),
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(groups=st.lists(st.lists(CHOICES, max_size=4), max_size=4), other=ANY_JSON)
def test_a_ranking_is_taken_whole_or_refused(groups: list[list[Any]], other: Any) -> None:
    """Whatever is accepted is a sound event that reads back; all else is a 400, never a crash."""
    for content in (body({"kind": "ranking", "groups": groups}), body(other), other):
        try:
            made = event(content)
        except ValidationError as error:
            refused = api_error_from_validation(error)
        else:
            refused = None
            assert find_defect(made) is None
            assert event(body(feedback_payload(made))).ranking == made.ranking
        assert refused is None or refused.status == 400
