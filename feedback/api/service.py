"""Accept, read and retract feedback: the HTTP API without HTTP.

Methods block on the log or the view. Refusals are `ApiError`s, ready to be sent.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from feedback.api.http_errors import ApiError
from feedback.api.schema import CandidateRef, FeedbackRequest, iter_choices
from feedback.api.translate import event_from_request, feedback_object
from feedback.disk import DiskReserve
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
        reserve: DiskReserve | None = None,
    ) -> None:
        """Serve from `log` and `view`.

        Args:
            log: The event log that feedback is appended to.
            view: This replica's view of the log.
            secret: The installation's secret.
            lineage: Returns which versions learned from which feedback.
            clock: Returns the Unix time in seconds.
            reserve: Space that new feedback leaves free on the disk; None for none.

        """
        self.log = log
        self.view = view
        self.secret = secret
        self._lineage = lineage
        self._clock = clock
        self._reserve = reserve

    def build_event(
        self, request: FeedbackRequest, owner: str, idempotency_key: str | None
    ) -> FeedbackEvent:
        """Check a request and return the event to record; write nothing.

        Blocks only if the request is about several completions.

        Raises:
            ApiError: The request is refused.
            LogUnavailable, ViewError: The messages of the completions cannot be compared.

        """
        self._check(request, owner)
        return event_from_request(
            request,
            event_id=event_id(self.secret, owner, idempotency_key),
            owner=owner,
            subject=subject_of(self.secret, owner, request.user),
            created_ms=int(self._clock() * 1000),
            repeatable=idempotency_key is not None,
        )

    def accept(self, events: Sequence[FeedbackEvent]) -> list[FeedbackEvent]:
        """Append events to the log together; return for each the first event with its id.

        An event whose idempotency key was used before (`body_digest` is set) is not appended
        again. Where two events with one key race, also on two replicas, the log's first counts.

        Raises:
            DiskLow: Less than the reserve is free on the disk; nothing was written.
            LogUnavailable: They may or may not be in the log.
            ViewError: The view failed before anything was written.

        """
        keyed = any(event.body_digest for event in events)
        if keyed:
            self.view.follow(self.log)
        first = self._first_events(events)
        new = [event for event in events if first[event.event_id] is event]
        if new and self._reserve is not None:
            self._reserve.check()
        self.log.append("feedback", [feedback_record(event) for event in new])
        if keyed:
            with suppress(FeedbackError):  # all are durable; at worst a race goes unnoticed
                self.view.follow(self.log)
                self._replace_lost(first, new)
        return [first[event.event_id] for event in events]

    def _recorded(self, event: FeedbackEvent) -> FeedbackEvent | None:
        """Return the view's event with the same idempotency key, if there is one."""
        seen = self.view.event(event.event_id) if event.body_digest else None
        return None if seen is None else seen.event

    def _first_events(self, events: Sequence[FeedbackEvent]) -> dict[str, FeedbackEvent]:
        """Return for each id the event that the view knows, else the first of `events`."""
        first: dict[str, FeedbackEvent] = {}
        for event in events:
            if event.event_id not in first:
                recorded = self._recorded(event)
                first[event.event_id] = event if recorded is None else recorded
        return first

    def _replace_lost(
        self, first: dict[str, FeedbackEvent], appended: Sequence[FeedbackEvent]
    ) -> None:
        """Replace in `first` the appended events that lost a race by the log's earlier ones."""
        for event in appended:
            recorded = self._recorded(event)
            if recorded is not None and recorded != event:
                first[event.event_id] = recorded

    def _fetch_event(self, event_id: str) -> ViewEvent | None:
        self.view.follow(self.log)
        return self.view.event(event_id)

    def get(self, owner: str, event_id: str) -> ViewEvent:
        """Return one of an owner's events, unless it is retracted.

        Raises:
            ApiError: There is none.
            LogUnavailable, ViewError: The log or the view cannot be read.

        """
        seen = self._fetch_event(event_id)
        if seen is None or seen.event.owner != owner or seen.retracted:
            raise _feedback_not_found("id")
        return seen

    def learned_in(self, seen: ViewEvent) -> int | None:
        """Return the first version that learned from an event, or None."""
        if feedback_kind(seen.event) in NON_TRAINING_KINDS:
            return None
        return self._lineage().learned_in(seen.position, seen.ended)

    def to_objects(self, seen: Sequence[ViewEvent]) -> list[dict[str, Any]]:
        """Return events as reads present them."""
        return [
            feedback_object(event.event, event.superseded, self.learned_in(event)) for event in seen
        ]

    def replay_response(self, event: FeedbackEvent) -> dict[str, Any]:
        """Return the response to a repeated POST of an event that was accepted before.

        Raises:
            ViewError: The view cannot be read.

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
            LogUnavailable, ViewError: The log or the view cannot be read.

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
            raise _feedback_not_found("after") from error
        return events[:limit], len(events) > limit

    def retract(self, owner: str, event_id: str) -> tuple[FeedbackEvent, bool]:
        """Retract an owner's event durably; return it, and False if it was retracted before.

        Raises:
            ApiError: There is none.
            LogUnavailable: The retraction may or may not be in the log.
            ViewError: The view cannot be read.

        """
        seen = self._fetch_event(event_id)
        if seen is None or seen.event.owner != owner:
            raise _feedback_not_found("id")
        if seen.retracted:
            return seen.event, False
        retraction = FeedbackEvent(
            event_id=retraction_id(self.secret, owner, event_id),
            completion_id=seen.event.completion_id,
            owner=owner,
            subject=seen.event.subject,
            created_ms=int(self._clock() * 1000),
            source=Source.SOURCE_API,
            retraction=Retraction(event_id=event_id),
        )
        retraction.target = event_target(retraction)
        self.log.append("feedback", [feedback_record(retraction)])
        return seen.event, True

    def _check(self, request: FeedbackRequest, owner: str) -> None:
        """Refuse completions that are not the owner's, and choices that do not exist."""
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
                "This completion is more than 30 days old and no longer accepts feedback. Send "
                "the request again, and give feedback on the new answer.",
                param,
            ) from error

    def _check_same_prompt(self, completions: dict[str, CompletionIdClaims]) -> None:
        # Completions that the view does not know yet pass; the ledger checks them again.
        self.view.follow(self.log)
        hashes = {self.view.messages_hash(completion) for completion in completions}
        if len(hashes - {None}) > 1:
            raise ApiError(
                400,
                "different_messages",
                "These completions answer different messages, so their answers cannot be compared.",
                "feedback",
            )


def needs_view(request: FeedbackRequest) -> bool:
    """Return whether a request is about several completions, which must share their messages."""
    choices = [choice for _, choice in iter_choices(request.feedback)]
    return any(isinstance(choice, CandidateRef) for choice in [*choices, *(request.shown or [])])


def _completion_not_found(param: str) -> ApiError:
    return ApiError(
        404,
        "completion_not_found",
        "You have no completion with this id. Send the id exactly as you received it, with the "
        "API key that requested the completion.",
        param,
    )


def _feedback_not_found(param: str) -> ApiError:
    return ApiError(
        404,
        "feedback_not_found",
        "You have no feedback with this id. Check the id and the API key; the feedback may have "
        "been deleted.",
        param,
    )


def _choice_not_found(path: str, index: int, choices: int) -> ApiError:
    has = f"has choices 0 to {choices - 1}" if choices else "accepts no feedback"
    return ApiError(
        400, "choice_not_found", f"'{path}' is {index}, but the completion {has}.", path
    )
