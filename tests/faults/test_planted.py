"""Mutation tests of the fault checks: plant each bug once; its check must fail."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feedback.api.schema import FeedbackRequest
from feedback.api.service import FeedbackService
from feedback.control.policies import append_policy_event
from feedback.failpoints import FailpointError
from feedback.ledger.store import FOLLOWED_TOPICS, Ledger
from feedback.log.event_log import LogUnavailable, NewRecord, Topic
from feedback.log.records import completion_record
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.identity import create_completion_id, load_or_create_secret
from feedback.view.feedback_view import View
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent
from protos.plaudit.v1.policy_pb2 import Leads, Published
from tests.support.faults.checks import Observed, check, check_publishers
from tests.support.feedback_samples import completion, put, rating


class InProcessLoop:
    """A feedback service, log and ledger in this process, without HTTP or load."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log: Any = SqliteLog(home / "log.db")
        self.ledger = Ledger(home / "ledger.db")
        self.secret = load_or_create_secret(home / "secret.json")
        self.service = FeedbackService(self.log, View(home / "view.db"), self.secret)
        self.seen = Observed()

    def answer(self) -> str:
        completion_id = create_completion_id(self.secret, "local", choices=2, policy_version=1)
        self.log.append(
            "completions", [completion_record(completion(completion_id, question=completion_id))]
        )
        return completion_id

    def vote(self, key: str, completion_id: str, value: str = "up") -> str | None:
        """Vote once; return the event id, or None if the vote was not accepted."""
        request = FeedbackRequest.model_validate(
            {
                "completion_id": completion_id,
                "reason": key,
                "feedback": {"kind": "rating", "choice": 0, "value": value},
            }
        )
        event = self.service.build_event(request, "local", key)
        try:
            (accepted,) = self.service.accept([event])
        except LogUnavailable:
            return None
        self.seen.accepted[accepted.event_id] = key
        return accepted.event_id

    def observe(self) -> Observed:
        with contextlib.suppress(FailpointError):
            while self.ledger.follow(self.log):
                pass
        rows = self.ledger._db.execute(
            "SELECT event_id, value FROM events WHERE retracts IS NULL AND dead = 0"
        ).fetchall()
        return replace(
            self.seen,
            events=[(i, FeedbackEvent.FromString(v).reason) for i, v in rows],
            dead=[letter.key for letter in self.ledger.dead_letters()],
            counted=[joined.event.reason for joined in self.ledger.effective_events()],
            waiting=self.ledger.counts().waiting,
            positions={
                (t, p): n for t, ps in self.ledger.positions().items() for p, n in ps.items()
            },
            ends={(t, p): n for t in FOLLOWED_TOPICS for p, n in self.log.ends(t).items()},
        )


@pytest.fixture
def loop(tmp_path: Path) -> InProcessLoop:
    loop = InProcessLoop(tmp_path)
    loop.vote("first", loop.answer())
    return loop


def assert_check_fails(seen: Observed, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(seen)


def test_the_checks_pass_without_a_bug(loop: InProcessLoop) -> None:
    answer = loop.answer()
    loop.vote("a", answer)
    loop.vote("b", answer, "down")
    loop.seen.replaced.add("a")
    check(loop.observe())


def test_an_acknowledgement_before_the_append_is_found(loop: InProcessLoop) -> None:
    real = loop.log.append

    def append(topic: Topic, records: Sequence[NewRecord]) -> None:
        if topic != "feedback":  # acknowledged, then killed before the write
            real(topic, records)

    answer = loop.answer()
    loop.log.append = append
    loop.vote("lost", answer)
    assert_check_fails(loop.observe(), "1 accepted events were lost")


def test_a_position_committed_before_its_rows_is_found(
    loop: InProcessLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.ledger._advance

    def advance_first() -> None:
        for topic in FOLLOWED_TOPICS:
            real(loop.log.read(topic, {}))

    advance_first()  # and killed here
    assert_check_fails(loop.observe(), "accepted events were lost")


def test_a_ledger_without_unique_ids_is_found(loop: InProcessLoop) -> None:
    loop.observe()
    database = loop.ledger._db
    sql = database.execute("SELECT sql FROM sqlite_master WHERE name = 'events'").fetchone()[0]
    database.execute("ALTER TABLE events RENAME TO old")
    database.execute(sql.replace("event_id TEXT NOT NULL UNIQUE", "event_id TEXT NOT NULL"))
    database.execute("INSERT INTO events SELECT * FROM old")
    database.execute("DELETE FROM positions")  # redelivery, as after a crash
    assert_check_fails(loop.observe(), "in the ledger twice")


def test_ids_that_ignore_the_idempotency_key_are_found(
    loop: InProcessLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.service.build_event

    def build_event(request: Any, owner: str, key: str | None) -> FeedbackEvent:
        return real(request, owner, None)

    monkeypatch.setattr(loop.service, "build_event", build_event)
    answer = loop.answer()
    loop.vote("again", answer)
    loop.vote("again", answer)
    assert_check_fails(loop.observe(), "in the ledger twice")


def test_a_stopped_follower_is_found(loop: InProcessLoop) -> None:
    loop.observe()
    put(loop.log, rating("not ours"))
    seen = loop.observe()
    assert_check_fails(replace(seen, positions={}), "records behind")
    assert_check_fails(seen, "wait for answers that never came")


def test_offsets_committed_before_the_ledger_are_found(loop: InProcessLoop) -> None:
    seen = loop.observe()
    ahead = {at: offset + 1 for at, offset in seen.positions.items()}
    assert_check_fails(replace(seen, committed=ahead), "committed before the ledger")


def test_replaced_or_retracted_votes_that_count_are_found(loop: InProcessLoop) -> None:
    seen = loop.observe()
    assert_check_fails(replace(seen, replaced={"first"}), "its author replaced")
    assert_check_fails(replace(seen, retracted={"first"}), "its author took back")
    assert_check_fails(replace(seen, counted=[]), "do not count")
    assert_check_fails(replace(seen, refused=["500"]), "were refused")
    assert_check_fails(Observed(), "nothing was accepted")


def test_two_concurrent_publishers_are_found(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    first = append_policy_event(log, Leads(learner="a"))
    append_policy_event(log, Published(version=1, leader=first.event_id))
    check_publishers(log)
    append_policy_event(log, Leads(learner="b"))
    append_policy_event(log, Published(version=2, leader=first.event_id))
    check_publishers(log)  # the first continues, but its version does not count
    append_policy_event(log, Published(version=2))  # a publication without a leader
    with pytest.raises(AssertionError, match="version 2 was published by another"):
        check_publishers(log)
    log.close()
