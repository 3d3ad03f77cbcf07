"""Old reports leave topic `policies`; what follows from the events stays the same."""

import time
from dataclasses import replace

from feedback.control.history import History
from feedback.control.policies import PolicyMessage, append_policy_event
from feedback.control.reports import ReportPruner
from feedback.log.sqlite_log import SqliteLog
from protos.plaudit.v1.policy_pb2 import Hold, Leads, Published, Stage, Swapped

EVENTS: list[PolicyMessage] = [
    Published(version=1),
    Leads(learner="a"),
    Swapped(replica="r1", version=1),
    Swapped(replica="gone", version=1),
    Swapped(replica="gone", version=0),
    *(Stage(leader="a", stage="ppo", cycle=1, iteration=n, iterations=50) for n in range(50)),
    Published(version=2, parent=1),
    Swapped(replica="r1", version=2),
    Hold(held=True, by="anna"),
    *(Stage(leader="a", stage="waiting", votes_needed=n) for n in range(3, 0, -1)),
]


def in_days(days: float) -> int:
    return int((time.time() + days * 86_400) * 1000)


def test_a_start_reads_the_decisions_and_the_latest_reports(log: SqliteLog) -> None:
    leader = ""
    for event in EVENTS:
        if isinstance(event, Stage):
            event.leader = leader
        appended = append_policy_event(log, event)
        leader = appended.event_id if isinstance(event, Leads) else leader
    history, pruner = History(log), ReportPruner(log)
    history.poll()
    assert pruner.run(in_days(0.5)) == 0, "a day's reports stay"
    assert pruner.run(in_days(2)) == 53
    assert log.count("policies") == len(EVENTS) - 53
    again = History(log)
    again.poll()
    before, after = history.snapshot(), again.snapshot()
    assert after == replace(before, keys=after.keys, lineage=after.lineage)
    assert (after.learner_status.stage, after.learner_status.votes_needed) == ("waiting", 1)
    assert after.learner_status.since_ms == before.learner_status.since_ms
    assert after.state.replicas == {"r1": 2}
    assert pruner.run(in_days(2)) == 0


def test_reports_that_come_later_are_pruned_too(log: SqliteLog) -> None:
    pruner = ReportPruner(log)
    for cycle in range(3):
        append_policy_event(log, Stage(leader="a", stage="reward", cycle=cycle))
        pruner.run(in_days(2))
    assert log.count("policies") == 1


def test_a_topic_without_reports_is_left_alone(log: SqliteLog) -> None:
    append_policy_event(log, Published(version=1))
    assert ReportPruner(log).run(in_days(2)) == 0
    assert log.count("policies") == 1
