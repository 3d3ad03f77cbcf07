"""`plaudit feedback forget`: a person's completions and votes leave everything that is kept.

The forgetting goes into the log first; whoever follows the log erases by it, and drops what comes
late. Then the log itself is searched and erased, and what this home keeps is waited for. Killed at
any moment and run again, it does what was left. Left out: files that somebody has exported, and the
weights of published versions, which are named.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from deploy.administration.policies import open_log
from deploy.errors import DeployError
from feedback.control.policies import current_state
from feedback.errors import FeedbackError
from feedback.ledger.rows import Erasure
from feedback.ledger.store import Ledger
from feedback.log.event_log import EventLog
from feedback.log.kafka_settings import KafkaSettings
from feedback.log.kafka_topics import compaction_lags
from feedback.log.records import feedback_record
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.forgetting import ERASE_ORDER, ForgettingSearch, search_log
from feedback.privacy.identity import load_or_create_secret, owner_of, subject_of
from feedback.view.feedback_view import View
from learner.cycle.lease import FileLease
from protos.checkpoints.shared_registry import open_registry
from protos.plaudit.v1.checkpoint_pb2 import Manifest
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent, Forgetting, Source

Echo = Callable[[str], None]
_VIEW_SECONDS: Final = 5.0  # a replica that runs follows the log several times in these
_LEDGER_SECONDS: Final = 60.0
_DAY_MS: Final = 24 * 3600 * 1000


def forget(home: Path, user: str, api_key: str | None, echo: Echo) -> None:
    """Erase what `user` asked and said until now, and say what was erased and what remains.

    Args:
        home: Folder of an installation's secret, and of its log unless that is on Kafka.
        user: The person, as requests name them in `user`.
        api_key: The key that those requests were sent with; None where none is required.

    Raises:
        DeployError: There is no installation in `home`, or no person is named.
        LogUnavailable: The log is away; run it again.

    """
    if not user:
        raise DeployError("name the person to forget, as requests do in 'user'")
    if not (home / "secret.json").is_file():
        raise DeployError(f"{home} has no secret.json, without which nobody can be told apart")
    secret = load_or_create_secret(home / "secret.json")
    owner = owner_of(secret, api_key)
    subject = subject_of(secret, owner, user)
    log = open_log(home)
    try:
        event = _append_forgetting(log, owner, subject)
        search = ForgettingSearch(owner, subject, event.forgetting.until_ms)
        found = _erase_from_outboxes(home, search, echo) + _erase_from_log(log, search, echo)
        _await_views(home, log, event.event_id, echo)
        erasures = _await_ledger(home, log, event, echo)
        erased = [e for e in erasures or () if e.events or e.completions]
        if not found and not erased:
            echo(
                f"Nothing of '{user}' was found. Where the service requires API keys, name theirs "
                "with --api-key."
            )
        _report_versions(home, log, erased, echo)
    finally:
        log.close()


def _append_forgetting(log: EventLog, owner: str, subject: str) -> FeedbackEvent:
    now_ms = int(time.time() * 1000)
    event = FeedbackEvent(
        event_id=f"fg-{secrets.token_urlsafe(18)}",
        owner=owner,
        created_ms=now_ms,
        source=Source.SOURCE_API,
        forgetting=Forgetting(subject=subject, until_ms=now_ms),
    )
    log.append("feedback", [feedback_record(event)])
    return event


def _erase_from_outboxes(home: Path, search: ForgettingSearch, echo: Echo) -> int:
    count = 0
    for path in sorted(home.glob("outbox-*.db")):
        outbox = SqliteLog(path)
        try:
            keys = list(search_log(outbox, search)["completions"])
            outbox.erase("completions", keys)  # also what was passed on, whose bytes may be there
        finally:
            outbox.close()
        count += len(keys)
        echo(f"{path.name}: {len(keys)} completions erased.")
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
        f"The log: {completions} completions, {events} events and {letters} dead letters erased "
        "(events of others too, where they need one of the completions)."
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
            f"Kafka's topic {topic} never removes them: set cleanup.policy=compact and "
            "max.compaction.lag.ms there, and forget again."
        )
    return (
        f"Kafka's topic {topic} has tombstones for them, and removes them within "
        f"{lag_ms / _DAY_MS:g} days (max.compaction.lag.ms={lag_ms}), as of the next record in "
        "their partition after that."
    )


def _await_views(home: Path, log: EventLog, event_id: str, echo: Echo) -> None:
    """Let running replicas erase, and do it for those that do not run."""
    deadline = time.monotonic() + _VIEW_SECONDS
    for path in sorted(home.glob("view-*.db")):
        view = View(path)

        def done(view: View = view) -> bool:
            return view.has_applied_forgetting(event_id)

        try:
            erased = _wait(done, deadline)
            if not erased:
                view.follow(log)
                erased = done()
        except FeedbackError:
            erased = False
        finally:
            view.close()
        echo(f"{path.name}: {'erased' if erased else 'erased when its replica runs again'}.")


def _await_ledger(
    home: Path, log: EventLog, event: FeedbackEvent, echo: Echo
) -> list[Erasure] | None:
    """Let a running learner erase, or do it in its place; None where there is no ledger."""
    path = home / "ledger.db"
    if not path.is_file():
        echo("No learner has run in this home: it cannot be told which versions learned from them.")
        return None
    subject = event.forgetting.subject
    ledger = Ledger(path)

    def done() -> bool:
        erasures = ledger.erasures(event.owner, subject)
        return ledger.is_erasure_complete() and event.event_id in {e.event_id for e in erasures}

    try:
        with FileLease(home / "learner" / "lease.lock") as own:
            if own.acquire(0):
                while ledger.follow(log):
                    pass
                ledger.erase_forgotten(log)
            if not _wait(done, time.monotonic() + _LEDGER_SECONDS):
                echo(
                    "ledger.db: the learner that runs has not erased them yet; forget again later."
                )
        erasures = ledger.erasures(event.owner, subject)
    finally:
        ledger.close()
    events, completions = sum(e.events for e in erasures), sum(e.completions for e in erasures)
    echo(f"ledger.db: {completions} completions and {events} events erased, now and before.")
    return erasures


def _wait(done: Callable[[], bool], deadline: float) -> bool:
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def learned_from(
    manifests: Sequence[Manifest], erasures: Sequence[Erasure]
) -> tuple[list[int], list[int]]:
    """Return the versions whose reward model learned from what was erased, and their descendants.

    Args:
        manifests: Of the versions there are, ascending; one whose parent was deleted counts as a
            descendant where its forebears had learned that far.
        erasures: What forgetting the person erased, by the ledger that they learned from.

    """
    direct: list[int] = []
    descended: list[int] = []
    there = {m.version for m in manifests}
    firsts = [(e.first_seq, e.number) for e in erasures if e.first_seq is not None]
    for manifest in manifests:
        learned = manifest.learned_from
        if any(f <= learned.to_seq and learned.forgettings < number for f, number in firsts):
            direct.append(manifest.version)
        elif manifest.parent in (*direct, *descended) or (
            manifest.parent not in there and any(f <= learned.from_seq for f, _ in firsts)
        ):
            descended.append(manifest.version)
    return direct, descended


def _report_versions(home: Path, log: EventLog, erasures: Sequence[Erasure], echo: Echo) -> None:
    if not erasures:
        return
    registry = open_registry(home)
    versions = registry.versions()
    direct, descended = learned_from([registry.manifest(v) for v in versions], erasures)
    if not direct and not descended:
        echo("No version in the registry learned from them.")
        return
    echo(f"Versions that learned from them: {', '.join(map(str, direct)) or 'deleted ones only'}.")
    if descended:
        echo(f"Versions trained from these: {', '.join(map(str, descended))}.")
    echo("The next reward model is trained without them; these versions stay as they are.")
    state = current_state(log)
    clean = [v for v in state.published if v in versions and v not in (*direct, *descended)]
    if state.live in (*direct, *descended) and clean:
        echo(
            f"Version {state.live} is live, and the next is trained from it. To leave behind what "
            f"it learned: 'plaudit policies activate {clean[-1]}', then 'plaudit policies resume'."
        )
