"""Every check of the faults sees its bug: each is planted once, and the check must fail."""

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


class Small:
    """Votes on a log in this process, through the service, and a ledger: no HTTP, no load."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log: Any = SqliteLog(home / "log.db")
        self.ledger = Ledger(home / "ledger.db")
        self.secret = load_or_create_secret(home / "secret.json")
        self.service = FeedbackService(self.log, View(home / "view.db"), self.secret)
        self.seen = Observed()

    def answer(self) -> str:
        made = create_completion_id(self.secret, "local", choices=2, policy_version=1)
        self.log.append("completions", [completion_record(completion(made, question=made))])
        return made

    def vote(self, key: str, completion_id: str, value: str = "up") -> str | None:
        """Vote once; give the event id where it was accepted."""
        request = FeedbackRequest.model_validate(
            {
                "completion_id": completion_id,
                "reason": key,
                "feedback": {"kind": "rating", "choice": 0, "value": value},
            }
        )
        event = self.service.build_event(request, "local", key)
        try:
            (counts,) = self.service.accept([event])
        except LogUnavailable:
            return None
        self.seen.accepted[counts.event_id] = key
        return counts.event_id

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
            counted=[judged.event.reason for judged in self.ledger.effective_events()],
            waiting=self.ledger.counts().waiting,
            positions={
                (t, p): n for t, ps in self.ledger.positions().items() for p, n in ps.items()
            },
            ends={(t, p): n for t in FOLLOWED_TOPICS for p, n in self.log.ends(t).items()},
        )


@pytest.fixture
def small(tmp_path: Path) -> Small:
    made = Small(tmp_path)
    made.vote("first", made.answer())
    return made


def red(seen: Observed, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        check(seen)


def test_green_without_a_bug(small: Small) -> None:
    answer = small.answer()
    small.vote("a", answer)
    small.vote("b", answer, "down")
    small.seen.replaced.add("a")
    check(small.observe())


def test_an_acknowledgement_before_the_append_loses(small: Small) -> None:
    real = small.log.append

    def append(topic: Topic, records: Sequence[NewRecord]) -> None:
        if topic != "feedback":  # acknowledged, then killed before it was written
            real(topic, records)

    answer = small.answer()
    small.log.append = append
    small.vote("lost", answer)
    red(small.observe(), "1 accepted events were lost")


def test_a_position_committed_before_its_rows_loses(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = small.ledger._advance

    def advance_first() -> None:
        for topic in FOLLOWED_TOPICS:
            real(small.log.read(topic, {}))

    advance_first()  # and killed here
    red(small.observe(), "accepted events were lost")


def test_a_ledger_without_unique_ids_has_votes_twice(small: Small) -> None:
    small.observe()
    database = small.ledger._db
    sql = database.execute("SELECT sql FROM sqlite_master WHERE name = 'events'").fetchone()[0]
    database.execute("ALTER TABLE events RENAME TO old")
    database.execute(sql.replace("event_id TEXT NOT NULL UNIQUE", "event_id TEXT NOT NULL"))
    database.execute("INSERT INTO events SELECT * FROM old")
    database.execute("DELETE FROM positions")  # delivered again, as after a crash
    red(small.observe(), "in the ledger twice")


def test_ids_that_ignore_the_key_have_votes_twice(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = small.service.build_event

    def build_event(request: Any, owner: str, key: str | None) -> FeedbackEvent:
        return real(request, owner, None)

    monkeypatch.setattr(small.service, "build_event", build_event)
    answer = small.answer()
    small.vote("again", answer)
    small.vote("again", answer)
    red(small.observe(), "in the ledger twice")


def test_a_follower_that_stopped_stays_behind(small: Small) -> None:
    small.observe()
    put(small.log, rating("not ours"))
    seen = small.observe()
    red(replace(seen, positions={}), "records behind")
    red(seen, "wait for answers that never came")


def test_offsets_committed_before_the_ledger_are_seen(small: Small) -> None:
    seen = small.observe()
    ahead = {at: offset + 1 for at, offset in seen.positions.items()}
    red(replace(seen, committed=ahead), "committed before the ledger")


def test_a_vote_that_was_replaced_or_taken_back_may_not_count(small: Small) -> None:
    seen = small.observe()
    red(replace(seen, replaced={"first"}), "its author replaced")
    red(replace(seen, retracted={"first"}), "its author took back")
    red(replace(seen, counted=[]), "do not count")
    red(replace(seen, refused=["500"]), "were refused")
    red(Observed(), "nothing was accepted")


def test_two_publishers_at_a_time_are_seen(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    first = append_policy_event(log, Leads(learner="a"))
    append_policy_event(log, Published(version=1, leader=first.event_id))
    check_publishers(log)
    append_policy_event(log, Leads(learner="b"))
    append_policy_event(log, Published(version=2, leader=first.event_id))
    check_publishers(log)  # the first goes on, but it does not count
    append_policy_event(log, Published(version=2))  # from one that does not say on whose behalf
    with pytest.raises(AssertionError, match="version 2 was published by another"):
        check_publishers(log)
    log.close()
