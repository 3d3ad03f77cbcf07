"""Taking in, reading and retracting feedback: what the HTTP API does, without HTTP.

Every function blocks on the log or the view. Errors are `ApiError`s, as they are answered.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from feedback.errors import FeedbackError
from feedback.events import target_of
from feedback.http_errors import ApiError
from feedback.identity import (
    CompletionIdClaims,
    ExpiredId,
    ForgedId,
    Secret,
    certify,
    check,
    event_id,
    retraction_id,
    subject_of,
)
from feedback.log import EventLog
from feedback.records import feedback_record
from feedback.schema import CandidateRef, FeedbackRequest, choices_of
from feedback.translate import event_of
from feedback.view import SeenEvent, View
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent, Retraction, Source

Clock = Callable[[], float]


class _KeyedLocks:
    """A lock for each key that is in use."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def holding(self, key: str) -> Iterator[None]:
        with self._guard:
            lock, users = self._locks.get(key, (threading.Lock(), 0))
            self._locks[key] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, users = self._locks.pop(key)
                if users > 1:
                    self._locks[key] = (lock, users - 1)


class FeedbackService:
    """Feedback on one log, with one replica's view. May be used from any thread."""

    def __init__(self, log: EventLog, view: View, secret: Secret, clock: Clock = time.time) -> None:
        """Use `log`, `view` and `secret`; `clock` gives unix seconds."""
        self.log = log
        self.view = view
        self.secret = secret
        self._clock = clock
        self._posting = _KeyedLocks()

    def accept(
        self, request: FeedbackRequest, owner: str, idempotency_key: str | None
    ) -> tuple[FeedbackEvent, bool]:
        """Make a request's opinion durable; give its event and whether it is new.

        With a key that was used for the same body before, the first event is given, also
        where two such requests race: on one replica they take turns, and of two replicas'
        events the log's first counts.

        Raises:
            ApiError: The request is refused, and nothing counts that was written.
            LogUnavailable: It may or may not be in the log.
            ViewError: The view failed; nothing was written.

        """
        self._check(request, owner)
        event = event_of(
            request,
            event_id=event_id(self.secret, owner, idempotency_key),
            owner=owner,
            subject=subject_of(self.secret, owner, request.user),
            created_ms=int(self._clock() * 1000),
        )
        if idempotency_key is None:
            self.log.append("feedback", [feedback_record(event)])
            return event, True
        with self._posting.holding(event.event_id):
            first = self._followed(event.event_id)
            new = first is None
            if first is None:
                self.log.append("feedback", [feedback_record(event)])
                first = self._first_in_log(event)
        if first is None or (new and first.event == event):
            return event, True
        if first.event.body_digest != event.body_digest:
            raise ApiError(
                409,
                "idempotency_key_reused",
                "This Idempotency-Key was used with another body. Send the first body again, "
                "or use a new key.",
                "Idempotency-Key",
            )
        return first.event, False

    def _followed(self, wanted: str) -> SeenEvent | None:
        self.view.follow(self.log)
        return self.view.event(wanted)

    def _first_in_log(self, event: FeedbackEvent) -> SeenEvent | None:
        """Give the event that counts; None if the view cannot say, for `event` is durable."""
        try:
            return self._followed(event.event_id)
        except FeedbackError:
            return None

    def get(self, owner: str, wanted: str) -> SeenEvent:
        """Give an owner's event that is not retracted, by its id.

        Raises:
            ApiError: There is none.
            LogUnavailable, ViewError: It cannot be told.

        """
        seen = self._followed(wanted)
        if seen is None or seen.event.owner != owner or seen.retracted:
            raise _no_feedback(404, "id")
        return seen

    def page(
        self, owner: str, completion_id: str | None, after: str | None, limit: int
    ) -> tuple[list[SeenEvent], bool]:
        """Give up to `limit` of an owner's events, oldest first, and whether there are more.

        Raises:
            ApiError: The completion is not the owner's, or there is no event `after`.
            LogUnavailable, ViewError: It cannot be told.

        """
        if completion_id is not None:
            try:
                certify(self.secret, completion_id, owner)
            except ForgedId as error:
                raise _no_completion("completion_id") from error
        self.view.follow(self.log)
        try:
            events = self.view.events(owner, completion_id, after, limit + 1)
        except LookupError as error:
            raise _no_feedback(400, "after") from error
        return events[:limit], len(events) > limit

    def retract(self, owner: str, wanted: str) -> tuple[FeedbackEvent, bool]:
        """Take an owner's event back, durably; give it, and whether it still stood.

        Raises:
            ApiError: There is none.
            LogUnavailable: The retraction may or may not be in the log.
            ViewError: It cannot be told whether there is one.

        """
        with self._posting.holding(wanted):
            seen = self._followed(wanted)
            if seen is None or seen.event.owner != owner:
                raise _no_feedback(404, "id")
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
            retraction.target = target_of(retraction)
            self.log.append("feedback", [feedback_record(retraction)])
            return seen.event, True

    def _check(self, request: FeedbackRequest, owner: str) -> None:
        """Refuse completions that are not the owner's, and choices that they have not."""
        claims = {
            request.completion_id: self._claims(request.completion_id, owner, "completion_id")
        }
        choices = [*choices_of(request.feedback)]
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
                raise _no_choice(path, index, claims[completion_id].choices)
        if len(claims) > 1:
            self._check_same_messages(claims)

    def _claims(self, completion_id: str, owner: str, param: str) -> CompletionIdClaims:
        try:
            return check(self.secret, completion_id, owner, self._clock())
        except ForgedId as error:
            raise _no_completion(param) from error
        except ExpiredId as error:
            raise ApiError(
                410,
                "completion_expired",
                "This completion is more than 30 days old and takes no more feedback. Ask "
                "again, and send feedback on the new answer.",
                param,
            ) from error

    def _check_same_messages(self, completions: dict[str, CompletionIdClaims]) -> None:
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


def _no_completion(param: str) -> ApiError:
    return ApiError(
        404,
        "completion_not_found",
        "There is no such completion of yours. Send the id exactly as it was answered, with "
        "the API key that asked for it.",
        param,
    )


def _no_feedback(status: int, param: str) -> ApiError:
    return ApiError(
        status,
        "feedback_not_found",
        "There is no such feedback of yours: check the id, and the API key. It may have been "
        "deleted.",
        param,
    )


def _no_choice(path: str, index: int, choices: int) -> ApiError:
    has = f"has choices 0 to {choices - 1}" if choices else "takes no feedback"
    return ApiError(
        400, "choice_not_found", f"'{path}' is {index}, but the completion {has}.", path
    )
