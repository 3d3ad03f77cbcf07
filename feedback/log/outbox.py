"""An outbox: completion records are stored on the local disk and then forwarded to the log.

Chats therefore neither wait for the log nor fail because of it. Records are forwarded in order. A
record that was being forwarded during a crash may arrive twice; readers recognise it by its key.
A record that the log can never take is set aside: in its place a dead letter with the reason is
forwarded to the topic `dead-letter`, and the records behind it do not wait. Once no record has
arrived for a second, the bytes of forwarded records are wiped from the outbox.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

from feedback.log.event_log import (
    EventLog,
    LogError,
    LogRecord,
    LogUnavailable,
    NewRecord,
    Positions,
    RecordKey,
    RecordsRefused,
    Topic,
)
from feedback.log.records import refused_record
from feedback.log.sqlite_log import SqliteLog
from feedback.metrics import OUTBOX_RECORDS, OUTBOX_REFUSED

logger = logging.getLogger(__name__)

_TOPIC: Final[Topic] = "completions"
_DEAD: Final[Topic] = "dead-letter"
_BATCH: Final = 200
_RETRY_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 5.0)


class OutboxLog:
    """An `EventLog` whose completions go through an outbox; everything else goes to the log."""

    def __init__(self, log: EventLog, outbox: SqliteLog, *, max_bytes: int = 1 << 30) -> None:
        """Forward the records in `outbox` to `log`. Closing this closes both.

        Args:
            log: Log to forward to.
            outbox: Local queue of completion records.
            max_bytes: Size of the outbox on disk, in bytes, above which appends are refused.

        """
        self._log = log
        self._outbox = outbox
        self._max_bytes = max_bytes
        self._arrived = threading.Event()
        self._closed = threading.Event()
        self._next: dict[Topic, int] = {}
        OUTBOX_RECORDS.set_function(self.waiting)
        self._drainer = threading.Thread(target=self._drain, name="plaudit-outbox", daemon=True)
        self._drainer.start()

    def append(self, topic: Topic, records: Sequence[NewRecord]) -> None:
        """Append records; completions are durable on the local disk when this returns.

        Raises:
            LogUnavailable: The log or the outbox failed, or the outbox is full.

        """
        if topic != _TOPIC:
            self._log.append(topic, records)
            return
        if self._outbox.size() > self._max_bytes:
            raise LogUnavailable(
                f"the outbox {self._outbox.path} is full ({self._max_bytes >> 20} MiB)"
            )
        self._outbox.append(_TOPIC, records)
        self._arrived.set()

    def erase(self, topic: Topic, keys: Sequence[RecordKey]) -> None:
        """Erase from the outbox and from the log.

        A record that is just being forwarded may reach the log after this; readers drop it
        because they know that its person was forgotten.

        Raises:
            LogUnavailable: See `EventLog.erase`.

        """
        if topic == _TOPIC:
            self._outbox.erase(topic, keys)
        self._log.erase(topic, keys)

    def expire(self, topic: Topic, keys: Sequence[RecordKey]) -> None:
        """Delete from the log itself; the outbox keeps nothing that it has forwarded.

        Raises:
            LogUnavailable: See `EventLog.expire`.

        """
        self._log.expire(topic, keys)

    def read(self, topic: Topic, positions: Positions, limit: int = 1000) -> list[LogRecord]:
        """Read from the log itself."""
        return self._log.read(topic, positions, limit)

    def ends(self, topic: Topic) -> dict[int, int]:
        """Return the ends of the log itself."""
        return self._log.ends(topic)

    def waiting(self) -> int:
        """Return the number of records in the outbox, with dead letters."""
        try:
            return self._outbox.count(_TOPIC) + self._outbox.count(_DEAD)
        except LogError:
            return 0

    def failure(self) -> str | None:
        """Return why nothing can be written or forwarded any more, or None."""
        if not (self._closed.is_set() or self._drainer.is_alive()):
            return f"the thread that forwards the outbox {self._outbox.path} has ended"
        return self._outbox.failure() or self._log.failure()

    def close(self) -> None:
        """Stop forwarding; remaining records are forwarded after the next start."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._arrived.set()
        self._drainer.join()
        self._outbox.close()
        self._log.close()

    def _drain(self) -> None:
        try:
            self._forward_until_closed()
        except BaseException:
            path = self._outbox.path
            logger.critical("The thread that forwards the outbox %s has ended", path, exc_info=True)
            raise

    def _forward_until_closed(self) -> None:
        failures = 0
        while not self._closed.is_set():
            try:
                moved = self._forward()
            except LogError as error:
                pause = _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)]
                failures += 1
                logger.warning(
                    "%d completions are waiting in the outbox: %s", self.waiting(), error
                )
                self._closed.wait(pause)
                continue
            if failures:
                logger.info("the log is available again; the outbox is being forwarded")
                failures = 0
            if moved:
                continue
            if not self._arrived.wait(1.0):
                self._wipe()
            self._arrived.clear()

    def _wipe(self) -> None:
        try:
            self._outbox.erase(_TOPIC, [])
        except LogError as error:
            logger.warning("could not wipe the outbox, trying again later: %s", error)

    def _forward(self) -> int:
        return self._forward_topic(_DEAD) + self._forward_topic(_TOPIC)

    def _forward_topic(self, topic: Topic) -> int:
        batch = self._outbox.read(topic, {0: self._next.get(topic, 0)}, _BATCH)
        if not batch:
            return 0
        try:
            self._log.append(topic, [NewRecord(r.key, r.type, r.value) for r in batch])
        except RecordsRefused as error:
            self._set_aside([r for r in batch if r.key in error.reasons], error.reasons)
        self._next[topic] = batch[-1].offset + 1
        self._outbox.delete_before(topic, self._next[topic])
        return len(batch)

    def _set_aside(self, refused: Sequence[LogRecord], reasons: Mapping[str, str]) -> None:
        """Replace refused records by dead letters; refused dead letters are dropped."""
        OUTBOX_REFUSED.inc(len(refused))
        for record in refused:
            logger.error(
                "the log can never take the record %s of topic %s, so it is set aside: %s",
                *(record.key, record.topic, reasons[record.key]),
            )
        letters = [refused_record(r, reasons[r.key]) for r in refused if r.topic != _DEAD]
        self._outbox.append(_DEAD, letters)

    def wait_until_empty(self, seconds: float) -> bool:
        """Wait until every record was forwarded; return False on a timeout."""
        deadline = time.monotonic() + seconds
        while self.waiting():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True
