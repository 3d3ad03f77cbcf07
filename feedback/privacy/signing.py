"""A log whose policy events are signed, so that no other writer of the topic can make an API key.

An event without a valid signature is read as one without content. Events that an earlier release
appended unsigned count only before the first signed one. Not detected: erased events, and a writer
who has the installation's secret.
"""

import hmac
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from feedback.log.event_log import (
    EventLog,
    LogError,
    LogRecord,
    NewRecord,
    Positions,
    RecordKey,
    Topic,
)
from feedback.privacy.identity import load_or_create_secret, policy_event_key
from protos.plaudit.v1.policy_pb2 import PolicyEvent

logger = logging.getLogger("plaudit.feedback")

_DIGEST_BYTES: Final = 32
_FIELD: Final = PolicyEvent(signature=bytes(_DIGEST_BYTES)).SerializeToString()[:-_DIGEST_BYTES]
_SUFFIX_BYTES: Final = len(_FIELD) + _DIGEST_BYTES


def sign(key: bytes, value: bytes) -> bytes:
    """Return a serialised policy event with its signature as the last field."""
    return value + _FIELD + hmac.digest(key, value, "sha256")


def is_signed(value: bytes) -> bool:
    """Return whether a serialised policy event ends with a signature, valid or not."""
    return value[-_SUFFIX_BYTES:-_DIGEST_BYTES] == _FIELD


def is_authentic(key: bytes, value: bytes) -> bool:
    """Return whether a serialised policy event ends with a valid signature."""
    digest = hmac.digest(key, value[:-_SUFFIX_BYTES], "sha256")
    return is_signed(value) and hmac.compare_digest(digest, value[-_DIGEST_BYTES:])


class SignedLog:
    """An event log that signs policy events and blanks those of others."""

    def __init__(self, log: EventLog, secret_file: Path) -> None:
        """Wrap `log`.

        Args:
            log: The log, whose topic `policies` has one partition.
            secret_file: The installation's secret. If it is absent and nothing was signed yet, it
                is created with the first event.

        """
        self._log = log
        self._secret_file = secret_file
        self._lock = threading.Lock()
        self._scanned = 0  # next offset to look for the first signed event at
        self._sealed_at: int | None = None  # offset of the first signed event
        self._key: bytes | None = None
        self._warned = False
        self.erase: Callable[[Topic, Sequence[RecordKey]], None] = log.erase
        self.expire: Callable[[Topic, Sequence[RecordKey]], None] = log.expire
        self.ends: Callable[[Topic], dict[int, int]] = log.ends
        self.failure: Callable[[], str | None] = log.failure
        self.close: Callable[[], None] = log.close

    def append(self, topic: Topic, records: Sequence[NewRecord]) -> None:
        """Append records, signed if they are policy events; for errors see `EventLog.append`.

        Raises:
            LogError: The installation's secret is missing, or another one signed earlier events.

        """
        if topic == "policies":
            key = self._signing_key()
            records = [replace(record, value=sign(key, record.value)) for record in records]
        self._log.append(topic, records)

    def read(self, topic: Topic, positions: Positions, limit: int = 1000) -> list[LogRecord]:
        """Read records as `EventLog.read` does; policy events of others are without content.

        Raises:
            LogError: The installation's secret is missing, or another one signed these events.

        """
        records = self._log.read(topic, positions, limit)
        if topic != "policies" or not records:
            return records
        with self._lock:
            self._find_seal(records[-1].offset)
        return [self._checked(record) for record in records]

    def _checked(self, record: LogRecord) -> LogRecord:
        if self._sealed_at is None or record.offset < self._sealed_at:
            return record
        assert self._key is not None, "it is loaded when the first signed event is found"
        if is_authentic(self._key, record.value):
            return record
        if not self._warned:
            logger.error(
                "A policy event at offset %d was not written by this installation, and does not "
                "count: somebody else can write the topic, or a process has another secret.json "
                "or an earlier release",
                record.offset,
            )
            self._warned = True
        return replace(record, value=b"")

    def _find_seal(self, upto: int | None = None) -> None:
        """Look for the first signed event, up to an offset or to the end."""
        while self._sealed_at is None and (upto is None or self._scanned <= upto):
            records = self._log.read("policies", {0: self._scanned})
            for record in records:
                if is_signed(record.value):
                    self._load_key(record)
                    self._sealed_at = record.offset
                    return
            if not records:
                return
            self._scanned = records[-1].offset + 1

    def _load_key(self, first: LogRecord) -> None:
        """Load the key, with which the first signed event must be signed."""
        file = self._secret_file
        if not file.is_file():
            raise LogError(
                f"{file} is missing, which the policy events are signed with; copy the "
                "installation's secret.json there"
            )
        key = policy_event_key(load_or_create_secret(file))
        if not is_authentic(key, first.value):
            raise LogError(
                f"the policy events are signed with another secret than {file}; copy the "
                "installation's secret.json there, or choose another PLAUDIT_KAFKA_PREFIX"
            )
        self._key = key

    def _signing_key(self) -> bytes:
        with self._lock:
            if self._key is None:
                self._find_seal()
            if self._key is None:  # nothing is signed yet
                self._key = policy_event_key(load_or_create_secret(self._secret_file))
            return self._key
