"""Waiting for votes: a cycle starts as soon as the votes can be predicted, or at a number of them.

The votes of these homes are for the answers that contain a certain token, or random.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from feedback.ledger.store import Ledger
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.identity import load_or_create_secret, prompt_split_key
from learner.cycle import waiting
from learner.cycle.metrics import Metrics
from learner.cycle.waiting import Expiry, VoteReader, VoteWatch
from learner.data.preferences import split_examples
from learner.errors import Interrupted
from learner.reward.evidence import ENOUGH, Evidence
from learner.settings import LearnerSettings
from tests.support.feedback_samples import completion, put, rating
from tests.support.learning import make_home

SETTINGS = LearnerSettings(min_events=100, early_share=0.2)


class Votes:
    """A ledger in which every row is a vote, and looks that find what a test sets."""

    def __init__(self, *found: Evidence) -> None:
        self.found = list(found)
        self.looks: list[int] = []

    def count_effective(self, after: int, upto: int) -> int:
        return upto - after

    def look(self, _: int, upto: int) -> Evidence:
        self.looks.append(upto)
        return self.found.pop(0)

    def watch(self, settings: LearnerSettings = SETTINGS) -> VoteWatch:
        return VoteWatch(cast(Any, self), settings, self.look, after=0)

    def start(self, watch: VoteWatch) -> int:
        """Add votes one by one until they are enough; return their number."""
        return next(upto for upto in range(1000) if watch.enough(upto))


def test_a_cycle_starts_early_once_the_votes_can_be_predicted() -> None:
    votes = Votes(Evidence(10, "few"), Evidence(6, "unclear"), Evidence(1, "unclear"), ENOUGH)
    watch = votes.watch()
    assert (watch.needed, watch.reason) == (
        20,
        "The learner looks at the new votes once there are 20.",
    )
    assert votes.start(watch) == 26
    assert votes.looks == [20, 22, 25, 26]
    assert watch.enough(26)
    assert votes.looks == [20, 22, 25, 26], "what was found is not looked at again"


def test_votes_that_cannot_be_looked_at_do_not_stop_the_learner() -> None:
    votes = Votes()  # whose looks raise an IndexError
    watch = votes.watch()
    assert votes.start(watch) == 100
    assert "could not be looked at" in watch.reason


def test_the_reason_says_what_is_missing() -> None:
    votes = Votes(Evidence(10, "Few."), Evidence(None, "No pattern."))
    watch = votes.watch()
    assert not watch.enough(20)
    assert (watch.needed, watch.reason) == (30, "Few.")
    assert not watch.enough(22)
    assert (watch.needed, watch.reason) == (
        100,
        "No pattern. At 100 new votes the learner starts in any case.",
    )


def test_enough_votes_start_a_cycle_whatever_they_say() -> None:
    votes = Votes(*[Evidence(None, "No pattern.")] * 20)
    assert votes.start(votes.watch()) == 100
    assert max(votes.looks) < 100
    assert len(votes.looks) < 10, "looks take seconds"


def test_without_an_early_share_nothing_is_looked_at() -> None:
    votes = Votes()
    assert votes.start(votes.watch(SETTINGS.model_copy(update={"early_share": 1.0}))) == 100


def reader(
    folder: Path,
    votes: int,
    raters: int = 1,
    *,
    random_votes: bool = False,
    owner: str = "local",
    trusted: frozenset[str] = frozenset(),
    keyed_split: bool = False,
) -> VoteReader:
    home = make_home(
        folder, votes, raters, random_votes=random_votes, owner=owner, keyed_split=keyed_split
    )
    ledger, log = Ledger(home / "ledger.db"), SqliteLog(home / "log.db")
    ledger.follow(log)
    log.close()
    return VoteReader(home, LearnerSettings(), ledger, lambda: trusted, lambda: None)


def test_votes_for_one_kind_of_answer_are_enough_after_a_few_dozen(tmp_path: Path) -> None:
    found = reader(tmp_path, 60)
    assert found.look(0, 60) == ENOUGH
    assert found.look(20, 60) == ENOUGH, "older votes do not count, but do no harm"


@pytest.mark.parametrize("trusted", [True, False])
def test_users_of_one_key_are_enough_only_if_they_are_trusted(
    tmp_path: Path, *, trusted: bool
) -> None:
    owners = frozenset({"app"}) if trusted else frozenset()
    found = reader(tmp_path, 60, 30, owner="app", trusted=owners).look(0, 60)
    if trusted:
        assert found == ENOUGH
    else:
        assert found.missing
        assert "These count for 6, because many are of one API key." in found.reason


def test_a_look_splits_the_votes_with_the_secret_as_a_cycle_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = reader(tmp_path, 60, keyed_split=True)
    seen = []
    monkeypatch.setattr(
        waiting, "split_examples", lambda *args: seen.append(args[2]) or split_examples(*args)
    )
    assert keyed.look(0, 60) == ENOUGH
    assert seen == [prompt_split_key(load_or_create_secret(tmp_path / "secret.json"))]


def test_random_votes_are_not_enough(tmp_path: Path) -> None:
    found = reader(tmp_path, 90, random_votes=True).look(0, 90)
    assert found.missing is None or found.missing > 0
    assert found.reason


def test_too_few_votes_are_found_before_anything_is_predicted(tmp_path: Path) -> None:
    found = reader(tmp_path, 6).look(0, 6)
    assert found.missing
    assert "train the reward model" in found.reason


def test_a_look_ends_when_the_learner_must_stop(tmp_path: Path) -> None:
    stopped = reader(tmp_path, 60)

    def interrupt() -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        replace(stopped, raise_if_stopped=interrupt).look(0, 60)


def test_answers_without_feedback_expire_between_cycles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, ledger, metrics = SqliteLog(tmp_path / "log.db"), Ledger(tmp_path / "ledger.db"), Metrics()
    put(log, completion("c1"), completion("c2"), rating("e1", completion_id="c2"))
    ledger.follow(log)
    month = LearnerSettings(retention_days=31)
    Expiry(ledger, log, metrics, month).run_if_due()
    assert ledger.counts().completions == 2
    later = time.time() + 40 * 86_400
    monkeypatch.setattr("time.time", lambda: later)
    expiry = Expiry(ledger, log, metrics, month)
    expiry.run_if_due()
    expiry.run_if_due()
    assert [record.key for record in log.read("completions", {})] == ["c2"]
    value = metrics.registry.get_sample_value
    assert value("plaudit_learner_expired_completions_total") == 1
    assert value("plaudit_learner_ledger_bytes") == ledger.used_bytes() > 0
    ledger.close()
    log.close()
