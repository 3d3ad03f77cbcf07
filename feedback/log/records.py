"""Encode and decode log records, and hash prompts."""

import hashlib
from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError

from feedback.errors import FeedbackError
from feedback.log.event_log import MAX_RECORD_BYTES, LogRecord, NewRecord
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import DeadLetter, FeedbackEvent

COMPLETION_TYPE: Final = CompletionRecord.DESCRIPTOR.full_name
FEEDBACK_TYPE: Final = FeedbackEvent.DESCRIPTOR.full_name
DEAD_LETTER_TYPE: Final = DeadLetter.DESCRIPTOR.full_name
_OVERHEAD_BYTES: Final = 1024  # of Kafka around a record


class Undecodable(FeedbackError):
    """A record does not fit its topic; the message says why."""


def completion_record(record: CompletionRecord) -> NewRecord:
    """Return the record to append to `completions`."""
    return NewRecord(record.completion_id, COMPLETION_TYPE, record.SerializeToString())


def feedback_record(event: FeedbackEvent) -> NewRecord:
    """Return the record to append to `feedback`; events of one completion stay in order."""
    return NewRecord(event.event_id, FEEDBACK_TYPE, event.SerializeToString(), event.completion_id)


def dead_letter_record(letter: DeadLetter) -> NewRecord:
    """Return the record to append to `dead-letter`; equal letters have equal keys.

    The bytes of a record that would not fit into another record are left out.
    """
    key = f"{letter.topic}/{letter.partition}/{letter.offset}"
    if letter.ByteSize() > MAX_RECORD_BYTES - _OVERHEAD_BYTES:
        letter = _without_value(letter)
    return NewRecord(key, DEAD_LETTER_TYPE, letter.SerializeToString())


def _without_value(letter: DeadLetter) -> DeadLetter:
    reason = f"{letter.reason} (its {len(letter.value)} bytes are left out)"
    return DeadLetter(
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        key=letter.key,
        type=letter.type,
        reason=reason,
    )


def refused_record(record: LogRecord, reason: str) -> NewRecord:
    """Return the record to append to `dead-letter` for one that the log has refused.

    It has no position in the log (partition and offset are -1), and its bytes are left out.
    """
    letter = DeadLetter(
        topic=record.topic,
        partition=-1,
        offset=-1,
        key=record.key,
        type=record.type,
        value=record.value,
        reason=reason,
    )
    content = _without_value(letter).SerializeToString()
    return NewRecord(f"refused/{record.topic}/{record.key}", DEAD_LETTER_TYPE, content)


def _check_type(record: LogRecord, expected: str) -> None:
    if record.type != expected:
        raise Undecodable(f"its type is {record.type!r}, not {expected!r}")


def decode_completion(record: LogRecord) -> CompletionRecord:
    """Decode a record of `completions`.

    Raises:
        Undecodable: The record has another type or is malformed, or the id or owner is missing.

    """
    _check_type(record, COMPLETION_TYPE)
    try:
        completion = CompletionRecord.FromString(record.value)
    except DecodeError as error:
        raise Undecodable(f"its bytes are not a {COMPLETION_TYPE}: {error}") from error
    if not completion.completion_id or not completion.owner:
        raise Undecodable("it has no completion id or no owner")
    return completion


def decode_feedback(record: LogRecord) -> FeedbackEvent:
    """Decode a record of `feedback`, without looking for defects (`events.find_defect`).

    Raises:
        Undecodable: The record has another type or is malformed, or the id or owner is missing.

    """
    _check_type(record, FEEDBACK_TYPE)
    try:
        event = FeedbackEvent.FromString(record.value)
    except DecodeError as error:
        raise Undecodable(f"its bytes are not a {FEEDBACK_TYPE}: {error}") from error
    if not event.event_id or not event.owner:
        raise Undecodable("it has no event id or no owner")
    return event


def decode_dead_letter(record: LogRecord) -> DeadLetter:
    """Decode a record of `dead-letter`.

    Raises:
        Undecodable: The record has another type or is malformed.

    """
    _check_type(record, DEAD_LETTER_TYPE)
    try:
        return DeadLetter.FromString(record.value)
    except DecodeError as error:
        raise Undecodable(f"its bytes are not a {DEAD_LETTER_TYPE}: {error}") from error


def _framed(parts: Sequence[str]) -> bytes:
    encoded = (part.encode() for part in parts)
    return b"".join(len(part).to_bytes(8, "big") + part for part in encoded)


def messages_hash(record: CompletionRecord) -> bytes:
    """Return a SHA-256 digest that is equal for completions of the same prompt.

    The prompt is the messages and what else the chat template was given, or the prompt of a text
    completion as text or as token ids. A prompt that was not recorded, for example because of
    images, differs from all others.
    """
    text = [part for m in record.messages for part in (m.role, m.content)]
    others = [m.others_json for m in record.messages]
    if record.multimodal:
        form, parts = "unrecorded", [record.completion_id]
    elif any(others) or record.template_json:
        form, parts = "chat", [*text, *others, record.template_json]
    elif text:
        form, parts = "messages", text
    elif record.prompt:
        form, parts = "prompt", [record.prompt]
    else:
        form, parts = "token ids", [str(token) for token in record.prompt_token_ids]
    return hashlib.sha256(_framed([form, *parts])).digest()
