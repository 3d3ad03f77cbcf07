"""Taking in, reading and retracting feedback: what the HTTP API does, without HTTP.

Every function blocks on the log or the view. Errors are `ApiError`s, as they are answered.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from feedback.api.http_errors import ApiError
from feedback.api.schema import CandidateRef, FeedbackRequest, iter_choices
from feedback.api.translate import event_of, feedback_object
from feedback.errors import FeedbackError
from feedback.log.event_log import EventLog
from feedback.log.events import event_target, feedback_kind
from feedback.log.records import feedback_record
from feedback.privacy.identity import (
    CompletionIdClaims,
    ExpiredId,
    ForgedId,
    Secret,
    check,
    event_id,
    retraction_id,
    subject_of,
    verify_owner,
)
from feedback.privacy.lineage import NON_TRAINING_KINDS, Lineage
from feedback.view.feedback_view import View, ViewEvent
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent, Retraction, Source

Clock = Callable[[], float]


class FeedbackService:
    """Feedback on one log, with one replica's view. May be used from any thread."""

    def __init__(
        self,
        log: EventLog,
        view: View,
        secret: Secret,
        lineage: Callable[[], Lineage] = Lineage,
        clock: Clock = time.time,
    ) -> None:
        """Use `log`, `view` and `secret`; `clock` gives unix seconds, `lineage` who learned."""
        self.log = log
        self.view = view
        self.secret = secret
        self._lineage = lineage
        self._clock = clock

    def event_for(
        self, request: FeedbackRequest, owner: str, idempotency_key: str | None
    ) -> FeedbackEvent:
        """Check a request and give the event that it asks to record; nothing is written.

        Blocks only for a request about several completions.

        Raises:
            ApiError: The request is refused.
            LogUnavailable, ViewError: It cannot be told whether its completions fit together.

        """
        self._check(request, owner)
        return event_of(
            request,
            event_id=event_id(self.secret, owner, idempotency_key),
            owner=owner,
            subject=subject_of(self.secret, owner, request.user),
            created_ms=int(self._clock() * 1000),
            repeatable=idempotency_key is not None,
        )

    def accept(self, events: Sequence[FeedbackEvent]) -> list[FeedbackEvent]:
        """Make events durable together; give for each the one of its id that counts.

        One whose key was used before (`body_digest` is set) is not written again, also where
        two of the same key race: of two replicas' events the log's first counts.

        Raises:
            LogUnavailable: They may or may not be in the log.
            ViewError: The view failed before anything was written.

        """
        keyed = any(event.body_digest for event in events)
        if keyed:
            self.view.follow(self.log)
        first: dict[str, FeedbackEvent] = {}
        for event in events:
            if event.event_id not in first:
                seen = self.view.event(event.event_id) if event.body_digest else None
                first[event.event_id] = event if seen is None else seen.event
        new = [event for event in events if first[event.event_id] is event]
        self.log.append("feedback", [feedback_record(event) for event in new])
        if keyed:
            with suppress(FeedbackError):  # all are durable; at worst a race is not noticed
                self.view.follow(self.log)
                for event in new:
                    seen = self.view.event(event.event_id) if event.body_digest else None
                    if seen is not None and seen.event != event:
                        first[event.event_id] = seen.event
        return [first[event.event_id] for event in events]

    def _fetch_event(self, wanted: str) -> ViewEvent | None:
        self.view.follow(self.log)
        return self.view.event(wanted)

    def get(self, owner: str, wanted: str) -> ViewEvent:
        """Return an owner's event that is not retracted, by its id.

        Raises:
            ApiError: There is none.
            LogUnavailable, ViewError: It cannot be told.

        """
        seen = self._fetch_event(wanted)
        if seen is None or seen.event.owner != owner or seen.retracted:
            raise _feedback_not_found(404, "id")
        return seen

    def learned_in(self, seen: ViewEvent) -> int | None:
        """Return the first version that learned from an opinion; None: none has."""
        if feedback_kind(seen.event) in NON_TRAINING_KINDS:
            return None
        return self._lineage().learned_in(seen.position, seen.ended)

    def to_objects(self, seen: Sequence[ViewEvent]) -> list[dict[str, Any]]:
        """Return opinions as reads answer them."""
        return [feedback_object(one.event, one.superseded, self.learned_in(one)) for one in seen]

    def repeated(self, event: FeedbackEvent) -> dict[str, Any]:
        """Return an opinion that was accepted before as a repeated POST answers it.

        Raises:
            ViewError: It cannot be told which version learned from it.

        """
        seen = self.view.event(event.event_id)
        return feedback_object(
            event, learned_in=self.learned_in(seen) if seen is not None else None
        )

    def page(
        self, owner: str, completion_id: str | None, after: str | None, limit: int
    ) -> tuple[list[ViewEvent], bool]:
        """Return up to `limit` of an owner's events, oldest first, and whether there are more.

        Raises:
            ApiError: The completion is not the owner's, or there is no event `after`.
            LogUnavailable, ViewError: It cannot be told.

        """
        if completion_id is not None:
            try:
                verify_owner(self.secret, completion_id, owner)
            except ForgedId as error:
                raise _completion_not_found("completion_id") from error
        self.view.follow(self.log)
        try:
            events = self.view.events(owner, completion_id, after, limit + 1)
        except LookupError as error:
            raise _feedback_not_found(400, "after") from error
        return events[:limit], len(events) > limit

    def retract(self, owner: str, wanted: str) -> tuple[FeedbackEvent, bool]:
        """Take an owner's event back, durably; give it, and whether it still stood.

        Raises:
            ApiError: There is none.
            LogUnavailable: The retraction may or may not be in the log.
            ViewError: It cannot be told whether there is one.

        """
        seen = self._fetch_event(wanted)
        if seen is None or seen.event.owner != owner:
            raise _feedback_not_found(404, "id")
        if seen.retracted:
            return seen.event, False
        retraction = FeedbackEvent(
            event_id=retraction_id(self.secret, owner, wanted),
            completion_id=seen.event.completion_id,
            owner=owner,
            subject=seen.event.subject,
            created_ms=int(self._clock() * 1000),
            source=Source.SOURCE_API,
            retraction=Retraction(event_id=wanted),
        )
        retraction.target = event_target(retraction)
        self.log.append("feedback", [feedback_record(retraction)])
        return seen.event, True

    def _check(self, request: FeedbackRequest, owner: str) -> None:
        """Refuse completions that are not the owner's, and choices that they have not."""
        claims = {
            request.completion_id: self._claims(request.completion_id, owner, "completion_id")
        }
        choices = [*iter_choices(request.feedback)]
        choices += [(f"shown[{i}]", choice) for i, choice in enumerate(request.shown or [])]
        for path, choice in choices:
            completion_id, index = request.completion_id, choice
            if isinstance(choice, CandidateRef):
                completion_id, index = choice.completion_id, choice.choice
                path = f"{path}.choice"
            if completion_id not in claims:
                param = path.removesuffix("choice") + "completion_id"
                claims[completion_id] = self._claims(completion_id, owner, param)
            assert isinstance(index, int)
            if index >= claims[completion_id].choices:
                raise _choice_not_found(path, index, claims[completion_id].choices)
        if len(claims) > 1:
            self._check_same_prompt(claims)

    def _claims(self, completion_id: str, owner: str, param: str) -> CompletionIdClaims:
        try:
            return check(self.secret, completion_id, owner, self._clock())
        except ForgedId as error:
            raise _completion_not_found(param) from error
        except ExpiredId as error:
            raise ApiError(
                410,
                "completion_expired",
                "This completion is more than 30 days old and takes no more feedback. Ask "
                "again, and send feedback on the new answer.",
                param,
            ) from error

    def _check_same_prompt(self, completions: dict[str, CompletionIdClaims]) -> None:
        # One that the view does not know yet is let through here; the ledger checks it again.
        self.view.follow(self.log)
        hashes = {self.view.messages_hash(completion) for completion in completions}
        if len(hashes - {None}) > 1:
            raise ApiError(
                400,
                "different_messages",
                "These completions do not answer the same messages, so their answers cannot "
                "be judged against each other.",
                "feedback",
            )


def needs_view(request: FeedbackRequest) -> bool:
    """Tell a request about several completions, which must answer the same messages."""
    choices = [choice for _, choice in iter_choices(request.feedback)]
    return any(isinstance(choice, CandidateRef) for choice in [*choices, *(request.shown or [])])


def _completion_not_found(param: str) -> ApiError:
    return ApiError(
        404,
        "completion_not_found",
        "There is no such completion of yours. Send the id exactly as it was answered, with "
        "the API key that asked for it.",
        param,
    )


def _feedback_not_found(status: int, param: str) -> ApiError:
    return ApiError(
        status,
        "feedback_not_found",
        "There is no such feedback of yours: check the id, and the API key. It may have been "
        "deleted.",
        param,
    )


def _choice_not_found(path: str, index: int, choices: int) -> ApiError:
    has = f"has choices 0 to {choices - 1}" if choices else "takes no feedback"
    return ApiError(
        400, "choice_not_found", f"'{path}' is {index}, but the completion {has}.", path
    )
