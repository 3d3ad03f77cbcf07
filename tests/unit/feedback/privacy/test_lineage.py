"""Which version learned from which vote: from the learner's ledger to a replica's answer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from feedback.api.service import FeedbackService
from feedback.control.history import History
from feedback.control.policies import append_policy_event
from feedback.ledger.store import Ledger
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.identity import Secret
from feedback.privacy.lineage import Coverage, Lineage, LogPosition
from feedback.view.feedback_view import View
from protos.plaudit.v1.feedback_pb2 import Rating
from protos.plaudit.v1.policy_pb2 import Leads, Lessons, Published
from tests.support.feedback_samples import comment, comparison, completion, put, rating, retraction

SECRET = Secret("00000001", {"00000001": b"k" * 32}, b"i" * 32)


class Home:
    """A log, a learner's ledger and a replica's view and history."""

    def __init__(self, folder: Path) -> None:
        self.log = SqliteLog(folder / "log.db")
        self.ledger = Ledger(folder / "ledger.db")
        self.view = View(folder / "view.db")
        self.history = History(self.log)
        self.service = FeedbackService(
            self.log, self.view, SECRET, lineage=lambda: self.history.lineage
        )
        self.upto = 0
        append_policy_event(self.log, Published(version=1))

    def learn(self, version: int) -> dict[str, int]:
        """Publish a version that learned from everything usable; return its new votes."""
        while self.ledger.follow(self.log):
            pass
        after, self.upto = self.upto, self.ledger.counts().max_seq
        votes = self.ledger.count_votes(after, self.upto)
        lessons = self.ledger.coverage(self.upto)
        append_policy_event(self.log, Published(version=version, lessons=lessons, votes=votes))
        self.history.poll()
        return votes

    def learned(self) -> dict[str, int | None]:
        self.view.follow(self.log)
        return {
            o["id"]: o["learned_in"] for o in self.service.to_objects(self.view.events("local"))
        }


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.view.close()
    made.ledger.close()
    made.log.close()


def test_a_vote_is_learned_from_by_the_first_version_after_it(home: Home) -> None:
    put(home.log, completion(), rating("one"), rating("two", 1))
    assert home.learned() == {"one": None, "two": None}
    assert home.learn(2) == {"rating": 2}
    put(home.log, comparison("three"))
    assert home.learned() == {"one": 2, "two": 2, "three": None}
    assert home.learn(3) == {"comparison": 1}
    assert home.learned() == {"one": 2, "two": 2, "three": 3}


def test_a_vote_whose_completion_comes_late_waits_for_the_version_after_that(home: Home) -> None:
    put(home.log, completion(), rating("early"), rating("late", completion_id="c2"))
    put(home.log, rating("other", 1))
    home.learn(2)
    assert home.learned() == {"early": 2, "late": None, "other": 2}
    put(home.log, completion("c2"))
    home.learn(3)
    assert home.learned() == {"early": 2, "late": 3, "other": 2}


def test_a_dead_letter_is_never_learned_from(home: Home) -> None:
    put(home.log, completion(), rating("no such choice", 9), rating("fine"))
    home.learn(2)
    home.learn(3)
    assert home.learned() == {"no such choice": None, "fine": 2}


def test_votes_superseded_or_retracted_before_are_not_learned_from(home: Home) -> None:
    put(home.log, completion(), rating("up"), rating("down", value=Rating.VALUE_DOWN))
    put(home.log, rating("gone", 1), retraction("r", "gone"), comment("said"))
    assert home.learn(2) == {"rating": 1}
    home.view.follow(home.log)
    seen = {name: home.view.event(name) for name in ("up", "down", "gone", "said")}
    assert all(seen.values())
    learned = {name: home.service.learned_in(one) for name, one in seen.items() if one is not None}
    assert learned == {"up": None, "down": 2, "gone": None, "said": None}


def test_a_vote_superseded_later_stays_learned_from(home: Home) -> None:
    put(home.log, completion(), rating("up"))
    home.learn(2)
    put(home.log, rating("down", value=Rating.VALUE_DOWN))
    home.learn(3)
    assert home.learned() == {"up": 2, "down": 3}


def test_a_version_of_an_earlier_leader_learned_from_nothing(home: Home) -> None:
    put(home.log, completion(), rating("one"))
    while home.ledger.follow(home.log):
        pass
    append_policy_event(home.log, Leads(learner="new"))
    lessons = home.ledger.coverage(1)
    append_policy_event(home.log, Published(version=2, leader="pe-old", lessons=lessons))
    home.history.poll()
    assert home.learned() == {"one": None}


def test_partitions_are_distinguished() -> None:
    lineage = Lineage().with_version(
        2, [Lessons(partition=0, next=10, missing=[4]), Lessons(partition=1, next=3)]
    )
    lineage = lineage.with_version(3, [])  # without coverage
    lineage = lineage.with_version(4, [Lessons(partition=0, next=20)])
    found = {
        position: lineage.learned_in(position, None)
        for position in (
            LogPosition(0, 3),
            LogPosition(0, 4),
            LogPosition(0, 10),
            LogPosition(1, 2),
            LogPosition(1, 3),
            LogPosition(2, 0),
        )
    }
    assert list(found.values()) == [2, 4, 4, 2, None, None]
    assert lineage.last == Coverage({0: 20})
    assert lineage.learned_in(LogPosition(0, 3), LogPosition(0, 15)) == 2
    assert lineage.learned_in(LogPosition(0, 3), LogPosition(0, 5)) is None
    assert lineage.learned_in(LogPosition(0, 3), LogPosition(0, 4)) == 2, (
        "the later vote was not covered yet"
    )
