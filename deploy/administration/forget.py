"""`plaudit feedback forget`: erase a person's completions and feedback from an installation.

The forgetting request is appended to the log first: replicas and learners erase when they read it,
and drop records that arrive later. Then the log itself is searched and erased, and the command
waits until the views and the ledger of this home are erased. If it is killed, run it again; it does
what is left. It does not erase exported files, nor what published versions have learned; it lists
those versions.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from deploy.administration.persons import Sender, held_messages, load_secret
from deploy.administration.policies import open_log
from feedback.control.policies import current_state
from feedback.errors import FeedbackError
from feedback.ledger.rows import Erasure
from feedback.ledger.store import Ledger
from feedback.log.event_log import EventLog
from feedback.log.kafka_settings import KafkaSettings
from feedback.log.kafka_topics import compaction_lags
from feedback.log.records import feedback_record
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.forgetting import ERASE_ORDER, ForgettingSearch, record_id, search_log
from feedback.registry import open_registry
from feedback.view.feedback_view import View
from learner.cycle.lease import FileLease
from protos.checkpoints.registry import CheckpointInvalid, Registry
from protos.plaudit.v1.checkpoint_pb2 import Manifest
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent, Forgetting, Source

Echo = Callable[[str], None]
_VIEW_SECONDS: Final = 5.0  # a running replica reads the log several times in this time
_LEDGER_SECONDS: Final = 60.0
_DAY_MS: Final = 24 * 3600 * 1000
_IDS_PER_REQUEST: Final = 10_000  # a request stays far below a record's largest size


def forget(home: Path, sender: Sender, echo: Echo) -> None:
    """Erase a person's completions and feedback so far, and report what was erased.

    Args:
        home: Home folder of the installation, with its secret and, unless Kafka is used, its log.
        sender: How the person's requests were sent.
        echo: Prints a line.

    Raises:
        DeployError: There is no installation in `home`, or no such key.
        LogUnavailable: The log cannot be reached; run the command again.

    """
    secret = load_secret(home)
    log = open_log(home)
    try:
        owner, subjects = sender.identify(log, secret)
        found, erased = 0, list[Erasure]()
        for subject in subjects:
            for event in _append_forgettings(home, log, owner, subject):
                search = ForgettingSearch.of(event)
                found += _erase_from_outboxes(home, search, echo)
                found += _erase_from_log(log, search, echo)
                _await_views(home, log, event.event_id, echo)
                erasures = _await_ledger(home, log, event, echo) or ()
                erased += [e for e in erasures if e.events or e.completions]
        if not found and not erased:
            echo(
                f"Found nothing of '{sender.user}'. If their requests were sent with an API key, "
                "give its name with --key."
            )
        _report_versions(home, log, erased, echo)
    finally:
        log.close()


def _append_forgettings(home: Path, log: EventLog, owner: str, subject: str) -> list[FeedbackEvent]:
    """Append the request, as several where many records are from clocks that are ahead.

    A record that such a machine adds while this runs is not covered.
    """
    now_ms = int(time.time() * 1000)
    ahead = _ids_after(home, log, owner, subject, now_ms)
    events = []
    for first in range(0, len(ahead) or 1, _IDS_PER_REQUEST):
        ids = ahead[first : first + _IDS_PER_REQUEST]
        person = Forgetting(subject=subject, until_ms=now_ms, ahead=ids, unnamed=not subject)
        event = FeedbackEvent(
            event_id=f"fg-{secrets.token_urlsafe(18)}",
            owner=owner,
            created_ms=now_ms,
            source=Source.SOURCE_API,
            forgetting=person,
        )
        log.append("feedback", [feedback_record(event)])
        events.append(event)
    return events


def _ids_after(home: Path, log: EventLog, owner: str, subject: str, now_ms: int) -> list[str]:
    """Return the ids of the person's records whose times are in the future."""
    found = [m for m in held_messages(home, log, owner, [subject]) if m.created_ms > now_ms]
    return sorted({record_id(message) for message in found})


def _erase_from_outboxes(home: Path, search: ForgettingSearch, echo: Echo) -> int:
    count = 0
    for path in sorted(home.glob("outbox-*.db")):
        outbox = SqliteLog(path)
        try:
            keys = list(search_log(outbox, search)["completions"])
            outbox.erase("completions", keys)  # forwarded ones too: their bytes may remain
        finally:
            outbox.close()
        count += len(keys)
        echo(f"{path.name}: erased {len(keys)} completions.")
    return count


def _erase_from_log(log: EventLog, search: ForgettingSearch, echo: Echo) -> int:
    found = search_log(log, search)
    for topic in ERASE_ORDER:
        if found[topic]:
            log.erase(topic, list(found[topic]))
    completions, events, letters = (
        len(found[topic]) for topic in ("completions", "feedback", "dead-letter")
    )
    echo(
        f"Log: erased {completions} completions, {events} feedback events and {letters} dead "
        "letters (including feedback of others on these completions)."
    )
    count = completions + events + letters
    kafka = KafkaSettings()
    if count and kafka.servers:
        topics = [topic for topic in ERASE_ORDER if found[topic]]
        for name, lag_ms in sorted(compaction_lags(kafka.client(), kafka.prefix, topics).items()):
            echo(_erasure_schedule(name, lag_ms))
    return count


def _erasure_schedule(topic: str, lag_ms: int | None) -> str:
    if lag_ms is None:
        return (
            f"Kafka never removes them from the topic {topic}. Set cleanup.policy=compact and "
            "max.compaction.lag.ms for it, and run this command again."
        )
    return (
        f"Kafka has tombstones for them in the topic {topic}. It removes them within "
        f"{lag_ms / _DAY_MS:g} days (max.compaction.lag.ms={lag_ms}), once their partition "
        "receives another record after that."
    )


def _await_views(home: Path, log: EventLog, event_id: str, echo: Echo) -> None:
    """Wait for running replicas to erase their views, and erase those of stopped replicas."""
    deadline = time.monotonic() + _VIEW_SECONDS
    for path in sorted(home.glob("view-*.db")):
        view = View(path)

        def is_erased(view: View = view) -> bool:
            return view.has_applied_forgetting(event_id)

        try:
            erased = _wait(is_erased, deadline)
            if not erased:
                view.follow(log)
                erased = is_erased()
        except FeedbackError:
            erased = False
        finally:
            view.close()
        echo(f"{path.name}: {'erased' if erased else 'will be erased when its replica next runs'}.")


def _await_ledger(
    home: Path, log: EventLog, event: FeedbackEvent, echo: Echo
) -> list[Erasure] | None:
    """Wait for a running learner to erase the ledger, or do it here; None if there is no ledger."""
    path = home / "ledger.db"
    if not path.is_file():
        echo(
            "There is no ledger, because no learner has run in this home: it is unknown which "
            "versions learned from them."
        )
        return None
    subject = event.forgetting.subject
    ledger = Ledger(path)

    def is_erased() -> bool:
        erasures = ledger.erasures(event.owner, subject)
        return ledger.is_erasure_complete() and event.event_id in {e.event_id for e in erasures}

    try:
        with FileLease(home / "learner" / "lease.lock") as lease:
            if lease.acquire(0):
                while ledger.follow(log):
                    pass
                ledger.erase_forgotten(log)
            if not _wait(is_erased, time.monotonic() + _LEDGER_SECONDS):
                echo(
                    "ledger.db: the running learner has not erased them yet; run this command "
                    "again later."
                )
        erasures = ledger.erasures(event.owner, subject)
    finally:
        ledger.close()
    events, completions = sum(e.events for e in erasures), sum(e.completions for e in erasures)
    echo(
        f"ledger.db: erased {completions} completions and {events} feedback events, now and before."
    )
    return erasures


def _wait(done: Callable[[], bool], deadline: float) -> bool:
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def affected_versions(
    manifests: Sequence[Manifest], erasures: Sequence[Erasure]
) -> tuple[list[int], list[int]]:
    """Return the versions whose reward model learned from erased feedback, and their descendants.

    A version whose parent was deleted counts as a descendant if its parent had learned from the
    ledger up to the erased feedback.

    Args:
        manifests: Manifests of the versions in the registry, in ascending order.
        erasures: What was erased for this person from the ledger that the versions learned from.

    """
    direct: list[int] = []
    descendants: list[int] = []
    existing = {m.version for m in manifests}
    first_seqs = [(e.first_seq, e.number) for e in erasures if e.first_seq is not None]
    for manifest in manifests:
        learned = manifest.learned_from
        if any(f <= learned.to_seq and learned.forgettings < number for f, number in first_seqs):
            direct.append(manifest.version)
        elif manifest.parent in (*direct, *descendants) or (
            manifest.parent not in existing and any(f <= learned.from_seq for f, _ in first_seqs)
        ):
            descendants.append(manifest.version)
    return direct, descendants


def _read_manifests(registry: Registry, echo: Echo) -> Iterator[Manifest]:
    for version in registry.versions():
        try:
            yield registry.manifest(version)
        except CheckpointInvalid as error:
            echo(f"It is unknown whether version {version} learned from this person: {error}.")


def _report_versions(home: Path, log: EventLog, erasures: Sequence[Erasure], echo: Echo) -> None:
    if not erasures:
        return
    manifests = list(_read_manifests(open_registry(home), echo))
    direct, descendants = affected_versions(manifests, erasures)
    if not direct and not descendants:
        echo("No version with a valid manifest learned from this person.")
        return
    echo(
        f"Versions that learned from this person: "
        f"{', '.join(map(str, direct)) or 'only deleted ones'}."
    )
    if descendants:
        echo(f"Versions trained from these: {', '.join(map(str, descendants))}.")
    echo("The next reward model is trained without this person; these versions do not change.")
    state = current_state(log)
    known = {manifest.version for manifest in manifests}
    clean = [v for v in state.published if v in known and v not in (*direct, *descendants)]
    if state.live in (*direct, *descendants) and clean:
        echo(
            f"Version {state.live} is live, and the next version is trained from it. To go back to "
            f"one that did not learn from this person: 'plaudit policies activate {clean[-1]}', "
            "then 'plaudit policies resume'."
        )
