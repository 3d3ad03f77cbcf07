"""`plaudit feedback show`: find a person's records, and write what is held about them."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf.json_format import MessageToDict

from deploy.administration.policies import open_log
from deploy.errors import DeployError
from feedback.control.history import History
from feedback.control.keys import KeyRing, key_owner
from feedback.log.event_log import EventLog, LogRecord, Topic
from feedback.log.records import (
    Undecodable,
    decode_completion,
    decode_dead_letter,
    decode_feedback,
)
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.forgetting import iter_records
from feedback.privacy.identity import LOCAL_OWNER, Secret, load_or_create_secret, subjects_of
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent

_HELD_TOPICS: Final[tuple[Topic, ...]] = ("completions", "feedback", "dead-letter")


def _never_ask(question: str) -> str:
    raise DeployError(question)


@dataclass(frozen=True, slots=True)
class Sender:
    """How the person's requests were sent.

    Attributes:
        user: The person, as requests name them in `user`; empty for requests that name nobody.
        key: Name or id of the API key of the requests; None if they were sent without one.
        owner: Owner id that the requests are stored with, instead of a key.
        ask: Returns a secret that is asked for, here the token of a key without a stored owner.

    """

    user: str
    key: str | None = None
    owner: str | None = None
    ask: Callable[[str], str] = _never_ask

    def identify(self, log: EventLog, secret: Secret) -> tuple[str, list[str]]:
        """Return the owner and every pseudonym that the person may have.

        Raises:
            DeployError: There is no such key, or it had several owners.

        """
        owner = self.owner or self._key_owner(log, secret)
        return owner, subjects_of(secret, owner, self.user) if self.user else [""]

    def _key_owner(self, log: EventLog, secret: Secret) -> str:
        if self.key is None:
            return LOCAL_OWNER
        history = History(log)
        history.poll()
        named = [key for key in history.keys.keys.values() if self.key in (key.id, key.name)]
        if not named:
            raise DeployError(f"there is no key '{self.key}'; see 'plaudit keys list'")
        owners = {key.owner for key in named}
        if len(owners) > 1:
            ids = ", ".join(key.id for key in named)
            raise DeployError(f"several keys were named '{self.key}'; give the id of one: {ids}")
        return owners.pop() or self._owner_from_token(history.keys, secret)

    def _owner_from_token(self, ring: KeyRing, secret: Secret) -> str:
        token = self.ask(
            f"The owner of the key '{self.key}' is not stored, because an earlier version created "
            "it; enter the key"
        )
        key = ring.find_any(token)
        if key is None or self.key not in (key.id, key.name):
            raise DeployError(f"what was entered is not the key '{self.key}'")
        return key_owner(key, secret, token)


def load_secret(home: Path) -> Secret:
    """Return the installation's secret, which people are recognised with.

    Raises:
        DeployError: There is no installation in `home`.

    """
    if not (home / "secret.json").is_file():
        raise DeployError(f"{home} has no secret.json, which is needed to recognise the person")
    return load_or_create_secret(home / "secret.json")


def held_messages(
    home: Path, log: EventLog, owner: str, subjects: Sequence[str]
) -> Iterator[CompletionRecord | FeedbackEvent]:
    """Yield a person's completions and feedback, also of dead letters, in the log and the outboxes.

    Raises:
        LogUnavailable: The log cannot be reached.

    """
    for topic in _HELD_TOPICS:
        yield from _held(log, topic, owner, subjects)
    for path in sorted(home.glob("outbox-*.db")):
        outbox = SqliteLog(path)
        try:
            yield from _held(outbox, "completions", owner, subjects)
        finally:
            outbox.close()


def _held(
    log: EventLog, topic: Topic, owner: str, subjects: Sequence[str]
) -> Iterator[CompletionRecord | FeedbackEvent]:
    for record in iter_records(log, topic):
        try:
            message = _decode(record)
        except Undecodable:
            continue
        if message.owner == owner and message.subject in subjects:
            yield message


def _decode(record: LogRecord) -> CompletionRecord | FeedbackEvent:
    if record.topic == "dead-letter":
        letter = decode_dead_letter(record)
        topic: Topic = "completions" if letter.topic == "completions" else "feedback"
        record = LogRecord(topic, 0, 0, letter.key, letter.type, letter.value, 0)
    return decode_completion(record) if record.topic == "completions" else decode_feedback(record)


def write_held(home: Path, sender: Sender, out: Path) -> int:
    """Write a person's records to a new JSONL file that only its owner can read; return how many.

    Raises:
        DeployError: There is no installation in `home`, no such key, or `out` exists.
        LogUnavailable: The log cannot be reached.

    """
    secret = load_secret(home)
    log = open_log(home)
    try:
        owner, subjects = sender.identify(log, secret)
        lines = [
            json.dumps({"type": message.DESCRIPTOR.name, **MessageToDict(message)})
            for message in held_messages(home, log, owner, subjects)
        ]
    finally:
        log.close()
    try:
        out.touch(mode=0o600, exist_ok=False)
    except FileExistsError as error:
        raise DeployError(f"{out} exists already; choose another file") from error
    out.write_text("".join(f"{line}\n" for line in dict.fromkeys(lines)))
    return len(set(lines))
