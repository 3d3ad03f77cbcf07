"""The bodies of /v1/feedback.

Validation is strict: `true` is not an integer, "0" is not a choice, and unknown fields are errors.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

MAX_IDEMPOTENCY_KEY: Final = 255
MAX_USER: Final = 256
MAX_CANDIDATES: Final = 32  # of a ranking; 496 pairs
MAX_SHOWN: Final = 128
MAX_UINT32: Final = 2**32 - 1
# Tags of the two forms of a choice, which appear in pydantic's error paths but not in JSON.
CHOICE_TAGS: Final = ("<choice>", "<candidate>")
# Types of the errors raised here, whose messages continue after the field's name.
CUSTOM_ERROR_TYPES: Final = frozenset({"blank", "twice", "many", "few", "own"})

CompletionId = Annotated[str, Field(min_length=1, max_length=128)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class CandidateRef(_Strict):
    """A choice of a completion other than the request's."""

    completion_id: CompletionId
    choice: Annotated[int, Field(ge=0, le=MAX_UINT32)]


def _choice_form(value: Any) -> str:
    return CHOICE_TAGS[isinstance(value, dict | CandidateRef)]


Choice = Annotated[
    Annotated[int, Field(ge=0, le=MAX_UINT32), Tag(CHOICE_TAGS[0])]
    | Annotated[CandidateRef, Tag(CHOICE_TAGS[1])],
    Discriminator(_choice_form),
]


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "must not be blank")
    return text


Text = Annotated[
    str,
    # In the schema, what `_not_blank` refuses: Python counts some control characters as space.
    Field(max_length=32_768, json_schema_extra={"pattern": r"[^\s\x1c-\x1f]"}),
    AfterValidator(_not_blank),
]


class Rating(_Strict):
    """Thumbs up or down."""

    kind: Literal["rating"]
    choice: Choice
    value: Literal["up", "down"]


class Score(_Strict):
    """A score from 0 (worst) to 1 (best)."""

    kind: Literal["score"]
    choice: Choice
    score: Annotated[float, Field(ge=0, le=1)]


class Comparison(_Strict):
    """Which of two candidates is better."""

    kind: Literal["comparison"]
    left: Choice
    right: Choice
    verdict: Literal["left", "right", "tie", "both_bad"]


class Ranking(_Strict):
    """Groups of candidates, best first; those in one group are tied."""

    kind: Literal["ranking"]
    groups: Annotated[
        list[Annotated[list[Choice], Field(min_length=1, max_length=MAX_CANDIDATES)]],
        Field(min_length=1, max_length=MAX_CANDIDATES),
    ]


class Demonstration(_Strict):
    """A better answer, written by the user."""

    kind: Literal["demonstration"]
    choice: Choice
    text: Text


class Comment(_Strict):
    """Remarks on an answer."""

    kind: Literal["comment"]
    choice: Choice
    text: Text


Feedback = Annotated[
    Rating | Score | Comparison | Ranking | Demonstration | Comment, Field(discriminator="kind")
]


def iter_choices(feedback: Feedback) -> Iterator[tuple[str, int | CandidateRef]]:
    """Yield each choice that feedback is about, with its path in the request."""
    match feedback:
        case Comparison():
            yield "feedback.left", feedback.left
            yield "feedback.right", feedback.right
        case Ranking():
            for g, group in enumerate(feedback.groups):
                for c, choice in enumerate(group):
                    yield f"feedback.groups[{g}][{c}]", choice
        case _:
            yield "feedback.choice", feedback.choice


def resolve(completion_id: str, choice: int | CandidateRef) -> tuple[str, int]:
    """Return the completion id and index of a choice in a request about `completion_id`."""
    if isinstance(choice, CandidateRef):
        return choice.completion_id, choice.choice
    return completion_id, choice


class FeedbackRequest(_Strict):
    """The body of POST /v1/feedback."""

    completion_id: CompletionId
    user: Annotated[str, Field(max_length=MAX_USER)] | None = None
    reason: Annotated[str, Field(max_length=4096)] | None = None
    source: Literal["page", "api", "annotator", "simulated"] = "api"
    shown: Annotated[list[Choice], Field(max_length=MAX_SHOWN)] | None = None
    decision_ms: Annotated[int, Field(ge=0, le=MAX_UINT32)] | None = None
    feedback: Feedback

    @field_validator("feedback", mode="after")
    @classmethod
    def _check_candidates(cls, feedback: Feedback, info: ValidationInfo) -> Feedback:
        completion_id = info.data.get("completion_id")
        if completion_id is None:
            return feedback  # it has its own error
        pairs = [resolve(completion_id, choice) for _, choice in iter_choices(feedback)]
        if len(set(pairs)) < len(pairs):
            raise PydanticCustomError("twice", "names the same choice twice")
        if len(pairs) > MAX_CANDIDATES:
            advice = "rank the best and the worst of them"
            raise PydanticCustomError("many", f"ranks more than {MAX_CANDIDATES} choices; {advice}")
        if isinstance(feedback, Ranking) and len(pairs) < 2:
            raise PydanticCustomError("few", "must rank at least two choices")
        if completion_id not in {id_ for id_, _ in pairs}:
            raise PydanticCustomError("own", "must be about a choice of 'completion_id'")
        return feedback


class FeedbackObject(BaseModel):
    """Accepted feedback.

    `learned_in` is the first published version that learned from it, or null. Reads include
    `superseded`: whether a later vote has replaced it.
    """

    id: str
    object: Literal["feedback"] = "feedback"
    created: int
    completion_id: str
    policy_version: int
    feedback: Feedback
    learned_in: int | None
    superseded: bool | None = None


class FeedbackList(BaseModel):
    """A page of feedback, oldest first. For the next page, pass the last id as `after`."""

    object: Literal["list"] = "list"
    data: list[FeedbackObject]
    has_more: bool


class FeedbackDeleted(BaseModel):
    """The response to DELETE."""

    id: str
    object: Literal["feedback.deleted"] = "feedback.deleted"
    deleted: Literal[True] = True
