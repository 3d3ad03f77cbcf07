"""The fold over policy events: example histories and invariants."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.control.policies import (
    PolicyFollower,
    PolicyMessage,
    PolicyState,
    append_policy_event,
    current_state,
    fold,
    next_parent,
)
from feedback.log.event_log import NewRecord
from feedback.log.sqlite_log import SqliteLog
from protos.plaudit.v1.policy_pb2 import (
    Activated,
    DuelEnded,
    Hold,
    KeyMade,
    KeyRevoked,
    Leads,
    PolicyEvent,
    Published,
    Refused,
    Stage,
    SwapFailed,
    Swapped,
)

KINDS = {
    Published: "published",
    Refused: "refused",
    Activated: "activated",
    Hold: "hold",
    Swapped: "swapped",
    SwapFailed: "swap_failed",
    Leads: "leads",
    DuelEnded: "duel_ended",
    Stage: "stage",
    KeyMade: "key_made",
    KeyRevoked: "key_revoked",
}


def event(message: PolicyMessage) -> PolicyEvent:
    made = PolicyEvent()
    getattr(made, KINDS[type(message)]).SetInParent()
    getattr(made, KINDS[type(message)]).CopyFrom(message)
    return made


def state_after(*messages: PolicyMessage) -> PolicyState:
    state = PolicyState()
    for message in messages:
        state = fold(state, event(message))
    return state


def published(*versions: int) -> list[Published]:
    return [Published(version=version) for version in versions]


def summary(state: PolicyState) -> tuple[int, int, set[int], bool]:
    return state.live, state.previous, set(state.rolled_back), state.held


def test_nothing_is_live_before_anything_is_published() -> None:
    assert PolicyState() == PolicyState((), 0, 0, frozenset(), False, {}, ())
    assert next_parent(PolicyState()) == 0


def test_the_newest_published_is_live() -> None:
    state = state_after(*published(1, 2, 5))
    assert state.published == (1, 2, 5)
    assert summary(state) == (5, 2, set(), False)
    assert next_parent(state) == 5


@pytest.mark.parametrize("late", [1, 2, 3])
def test_a_version_that_is_not_new_changes_nothing(late: int) -> None:
    assert state_after(*published(1, 3, late)) == state_after(*published(1, 3))


def test_going_back_rolls_back_what_is_above_and_holds() -> None:
    state = state_after(*published(1, 2, 3, 4), Activated(version=2))
    assert summary(state) == (2, 1, {3, 4}, True)
    assert next_parent(state) == 2


def test_a_second_rollback_adds_to_the_first() -> None:
    state = state_after(*published(1, 2, 3), Activated(version=2), Activated(version=1))
    assert summary(state) == (1, 0, {2, 3}, True)


def test_versions_published_while_held_wait_until_publishing_resumes() -> None:
    history = [*published(1, 2), Activated(version=1), *published(3, 4)]
    assert summary(state_after(*history)) == (1, 0, {2}, True)
    assert summary(state_after(*history, Hold(held=False))) == (4, 1, {2}, False)


def test_resuming_does_not_restore_rolled_back_versions() -> None:
    state = state_after(*published(1, 2, 3), Activated(version=1), Hold(held=False))
    assert summary(state) == (1, 0, {2, 3}, False)
    assert summary(fold(state, event(Published(version=4)))) == (4, 1, {2, 3}, False)


def test_an_operator_may_hold_without_rolling_back() -> None:
    state = state_after(Published(version=1), Hold(held=True), Published(version=2))
    assert summary(state) == (1, 0, set(), True)


@pytest.mark.parametrize("message", [Stage(stage="ppo"), KeyMade(id="k"), KeyRevoked(id="k")])
def test_events_for_other_readers_change_nothing(message: PolicyMessage) -> None:
    history = [*published(1, 2), Activated(version=1)]
    assert state_after(*history, message) == state_after(*history)


def test_activating_a_rolled_back_version_restores_only_that_one() -> None:
    history = [*published(1, 2, 3), Activated(version=1), Activated(version=2)]
    assert summary(state_after(*history)) == (2, 1, {3}, True)


def test_activating_a_waiting_version_keeps_the_hold() -> None:
    history = [*published(1, 2), Activated(version=1), *published(3), Activated(version=3)]
    assert summary(state_after(*history)) == (3, 1, {2}, True)


def test_activating_what_was_never_published_or_is_live_changes_nothing() -> None:
    before = state_after(*published(1, 2))
    assert state_after(*published(1, 2), Activated(version=9)) == before
    assert state_after(*published(1, 2), Activated(version=2)) == before


def test_swaps_set_what_each_replica_serves_and_failures_change_nothing() -> None:
    history: list[PolicyMessage] = [
        *published(1, 2),
        Swapped(replica="a", version=1),
        Swapped(replica="b", version=2, previous=1),
        Swapped(replica="a", version=2, previous=1),
        SwapFailed(replica="b", version=3, serving=2, reason="no tensor"),
        Refused(parent=2, reasons=["KL"]),
    ]
    state = state_after(*history)
    assert state.replicas == {"a": 2, "b": 2}
    assert state_after(*history, Swapped(replica="b")).replicas == {"a": 2}, "it has stopped"
    assert summary(state) == (2, 1, set(), False)


def test_an_event_of_an_unknown_kind_is_skipped() -> None:
    state = state_after(*published(1))
    assert fold(state, PolicyEvent(event_id="from the future")) == state


TRIAL = [*published(1), Published(version=2, parent=1, trial=True)]


def test_a_version_on_trial_is_not_live_and_no_rollback_target() -> None:
    state = state_after(*TRIAL)
    assert (state.challenger, next_parent(state)) == (2, 1)
    assert summary(state) == (1, 0, set(), False)


def test_the_first_version_needs_no_trial() -> None:
    state = state_after(Published(version=1, trial=True))
    assert (state.live, state.challenger) == (1, 0)


def test_a_won_trial_makes_the_challenger_live_and_a_lost_one_rolls_it_back() -> None:
    won = state_after(*TRIAL, DuelEnded(version=2, against=1, promoted=True))
    assert (summary(won), won.challenger) == ((2, 1, set(), False), 0)
    lost = state_after(*TRIAL, DuelEnded(version=2, against=1, promoted=False))
    assert (summary(lost), lost.challenger) == ((1, 0, {2}, False), 0)
    after = fold(lost, event(Published(version=3, trial=True)))
    assert (after.live, after.challenger) == (1, 3), "a lost trial does not hold publishing"


def test_the_end_of_another_trial_or_by_another_leader_has_no_effect() -> None:
    before = state_after(*TRIAL)
    assert fold(before, event(DuelEnded(version=1, promoted=True))) == before
    assert fold(before, event(DuelEnded(version=2, promoted=True, leader="gone"))) == before
    lost = fold(before, event(DuelEnded(version=2, promoted=False)))
    assert fold(lost, event(DuelEnded(version=2, promoted=True))) == lost


def test_an_operator_ends_a_trial_by_activating_any_version() -> None:
    promoted = state_after(*TRIAL, Activated(version=2))
    assert (summary(promoted), promoted.challenger) == ((2, 1, set(), False), 0)
    stopped = state_after(*TRIAL, Activated(version=1))
    assert (summary(stopped), stopped.challenger) == ((1, 0, {2}, False), 0)
    back = state_after(*published(1, 2), Published(version=3, trial=True), Activated(version=1))
    assert (summary(back), back.challenger) == ((1, 0, {2, 3}, True), 0)


def test_a_second_trial_and_a_hold_wait() -> None:
    second = state_after(*TRIAL, Published(version=3, trial=True))
    assert (second.live, second.challenger) == (1, 2)
    held = state_after(*published(1), Hold(held=True), Published(version=2, trial=True))
    assert (held.live, held.challenger) == (1, 0)
    resumed = fold(held, event(Hold(held=False)))
    assert (resumed.live, resumed.challenger) == (1, 2)
    during = [*TRIAL, Hold(held=True), DuelEnded(version=2, promoted=True)]
    assert state_after(*during).challenger == 2, "no new version goes live while held"


def test_another_version_that_goes_live_ends_a_trial() -> None:
    state = state_after(*TRIAL, Published(version=3))
    assert (summary(state), state.challenger) == ((3, 1, {2}, False), 0)


def test_a_failure_to_load_the_challenger_is_recorded() -> None:
    failed = SwapFailed(replica="a", version=2, serving=1, reason="its rank is 64")
    state = state_after(*TRIAL, SwapFailed(replica="b", version=1), failed)
    assert state.trial_failure == "a: its rank is 64"
    assert state_after(*TRIAL, failed, Activated(version=1)).trial_failure == ""
    assert state_after(*published(1, 2), failed).trial_failure == ""


MESSAGES = st.one_of(
    st.integers(1, 8).map(lambda version: Published(version=version)),
    st.integers(1, 8).map(lambda version: Published(version=version, trial=True)),
    st.tuples(st.integers(1, 8), st.booleans()).map(
        lambda ended: DuelEnded(version=ended[0], promoted=ended[1])
    ),
    st.integers(0, 8).map(lambda version: Activated(version=version)),
    st.booleans().map(lambda held: Hold(held=held)),
)


@settings(deadline=None)
@given(st.lists(MESSAGES, max_size=30))
def test_invariants_hold_after_any_history(history: list[PolicyMessage]) -> None:
    state = PolicyState()
    for message in history:
        before, state = state, fold(state, event(message))
        assert list(state.published) == sorted(set(state.published))
        assert state.live == 0 or state.live in state.published
        assert state.live not in state.rolled_back
        assert state.challenger == 0 or state.challenger > state.live > 0
        assert state.challenger not in state.rolled_back
        assert state.previous not in state.rolled_back
        assert state.previous < state.live or state.live == state.previous == 0
        if state.live < before.live:
            assert isinstance(message, Activated), "only an operator goes back"
            assert state.held
        if before.held and not isinstance(message, Hold | Activated):
            assert state.live == before.live


def test_what_is_published_through_the_log_is_current(log: SqliteLog) -> None:
    for message in [*published(1, 2, 3), Activated(version=2)]:
        assert append_policy_event(log, message).WhichOneof("kind") == KINDS[type(message)]
    assert summary(current_state(log)) == (2, 1, {3}, True)
    resumed = append_policy_event(log, Hold(held=False))
    assert resumed.WhichOneof("kind") == "hold", "an empty message has a kind too"
    assert summary(current_state(log)) == (2, 1, {3}, False)


def test_each_event_gets_an_id_and_a_time(log: SqliteLog) -> None:
    first, second = (append_policy_event(log, Hold(held=True)) for _ in range(2))
    assert first.event_id != second.event_id
    assert first.created_ms > 1_600_000_000_000


def test_a_follower_reads_only_what_is_new(log: SqliteLog) -> None:
    follower = PolicyFollower(log)
    assert follower.poll() == PolicyState()
    append_policy_event(log, Published(version=1))
    assert follower.poll().live == 1
    append_policy_event(log, Published(version=2))
    assert follower.poll().live == 2
    assert follower.poll() is follower.state


def test_repeated_events_and_undecodable_records_are_skipped(log: SqliteLog) -> None:
    append_policy_event(log, Published(version=1))
    append_policy_event(log, Published(version=2))
    back = append_policy_event(log, Activated(version=1))
    append_policy_event(log, Activated(version=2))
    record = NewRecord(back.event_id, "t", back.SerializeToString())
    log.append("policies", [record, NewRecord("x", "t", b"\xff\xff\xff")])
    assert current_state(log).live == 2


def test_versions_of_an_earlier_leader_have_no_effect(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    append_policy_event(log, Published(version=1))
    first = append_policy_event(log, Leads(learner="a")).event_id
    append_policy_event(log, Published(version=2, parent=1, leader=first))
    assert current_state(log).live == 2
    second = append_policy_event(log, Leads(learner="b")).event_id
    append_policy_event(log, Published(version=3, parent=2, leader=first))  # it was paused
    assert current_state(log).published == (1, 2)
    append_policy_event(log, Published(version=3, parent=2, leader=second))
    assert current_state(log).live == 3
    assert current_state(log).leader == second
    log.close()
