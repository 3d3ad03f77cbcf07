"""The bodies of /v1/feedback, as clients are written against them.

Strict: `true` is no integer, "0" is no choice, and a field that is not known is an error.
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
MAX_CANDIDATES: Final = 128
MAX_UINT32: Final = 2**32 - 1
# Tags of the two forms of a choice; they stand in pydantic's error paths, never in JSON.
CHOICE_TAGS: Final = ("<choice>", "<candidate>")
# Types of the errors made here, whose messages go on from the field's name.
CUSTOM_ERROR_TYPES: Final = frozenset({"blank", "twice", "many", "few", "own"})

CompletionId = Annotated[str, Field(min_length=1, max_length=128)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class CandidateRef(_Strict):
    """A choice of a completion that is not the request's own."""

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
        raise PydanticCustomError("blank", "must hold more than white space")
    return text


Text = Annotated[str, Field(max_length=32_768), AfterValidator(_not_blank)]


class Rating(_Strict):
    """Thumbs up or down."""

    kind: Literal["rating"]
    choice: Choice
    value: Literal["up", "down"]


class Score(_Strict):
    """A mark from 0 (worst) to 1 (best)."""

    kind: Literal["score"]
    choice: Choice
    score: Annotated[float, Field(ge=0, le=1)]


class Comparison(_Strict):
    """Which of two is better."""

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
    """A better answer, in the user's words."""

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


def iter_choices(opinion: Feedback) -> Iterator[tuple[str, int | CandidateRef]]:
    """Yield each choice an opinion is about, with the path it stands at."""
    match opinion:
        case Comparison():
            yield "feedback.left", opinion.left
            yield "feedback.right", opinion.right
        case Ranking():
            for g, group in enumerate(opinion.groups):
                for c, choice in enumerate(group):
                    yield f"feedback.groups[{g}][{c}]", choice
        case _:
            yield "feedback.choice", opinion.choice


def resolve(completion_id: str, choice: int | CandidateRef) -> tuple[str, int]:
    """Return the candidate that a choice means in a request about `completion_id`."""
    if isinstance(choice, CandidateRef):
        return choice.completion_id, choice.choice
    return completion_id, choice


class FeedbackRequest(_Strict):
    """The body of POST /v1/feedback."""

    completion_id: CompletionId
    user: Annotated[str, Field(max_length=256)] | None = None
    reason: Annotated[str, Field(max_length=4096)] | None = None
    source: Literal["page", "api", "annotator", "simulated"] = "api"
    shown: Annotated[list[Choice], Field(max_length=MAX_CANDIDATES)] | None = None
    decision_ms: Annotated[int, Field(ge=0, le=MAX_UINT32)] | None = None
    feedback: Feedback

    @field_validator("feedback", mode="after")
    @classmethod
    def _check_candidates(cls, opinion: Feedback, info: ValidationInfo) -> Feedback:
        own = info.data.get("completion_id")
        if own is None:
            return opinion  # it has an error of its own
        pairs = [resolve(own, choice) for _, choice in iter_choices(opinion)]
        if len(set(pairs)) < len(pairs):
            raise PydanticCustomError("twice", "names the same choice twice")
        if len(pairs) > MAX_CANDIDATES:
            raise PydanticCustomError("many", f"ranks more than {MAX_CANDIDATES} choices")
        if isinstance(opinion, Ranking) and len(pairs) < 2:
            raise PydanticCustomError("few", "must rank at least two choices")
        if own not in {completion_id for completion_id, _ in pairs}:
            raise PydanticCustomError("own", "must be about a choice of 'completion_id'")
        return opinion


class FeedbackObject(BaseModel):
    """One accepted opinion. Reads say `superseded` where a later vote has replaced it.

    `learned_in` is the first published version that learned from it, null until there is one.
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
    """A page of opinions, oldest first; the next page is `?after=` its last id."""

    object: Literal["list"] = "list"
    data: list[FeedbackObject]
    has_more: bool


class FeedbackDeleted(BaseModel):
    """The answer to DELETE."""

    id: str
    object: Literal["feedback.deleted"] = "feedback.deleted"
    deleted: Literal[True] = True
