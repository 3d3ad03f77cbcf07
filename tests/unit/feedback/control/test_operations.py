"""Operators' actions, the audit trail and the snapshot of /v1/learning."""

import asyncio
import hashlib
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from feedback.control.history import History
from feedback.control.key_operations import make_key, revoke_key
from feedback.control.learning import Learning
from feedback.control.operations import NoSuchVersion, OperationRefused, Operations
from feedback.control.policies import append_policy_event
from feedback.log.event_log import LogUnavailable
from feedback.log.sqlite_log import SqliteLog
from feedback.view.feedback_view import View
from learner.cycle.publishing import Publisher
from protos.checkpoints.folder_registry import FolderRegistry
from protos.checkpoints.registry import CheckpointInvalid
from protos.plaudit.v1.checkpoint_pb2 import LedgerRange
from protos.plaudit.v1.policy_pb2 import (
    DuelEnded,
    Leads,
    Published,
    Refused,
    Stage,
    SwapFailed,
    Swapped,
)
from serving.http.learning import LearningFeed
from tests.support.feedback_samples import comparison, completion, put, rating


class Home:
    """A log, a registry and everything that reads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = SqliteLog(folder / "log.db")
        self.registry = FolderRegistry(folder / "registry")
        self.view = View(folder / "view.db")
        self.history = History(self.log)
        self.operations = Operations(self.log, self.registry, self.history)
        self.learning = Learning(self.history, self.registry, self.view)

    def publish(self, version: int, gate: dict[str, float] | None = None, **more: Any) -> None:
        model = self.folder / "model"
        model.mkdir(exist_ok=True)
        (model / "config.json").write_text("{}")
        (model / "report.json").write_text(json.dumps({"version": version}))
        self.registry.publish(
            model,
            version=version,
            parent=version - 1,
            base="tiny",
            gate=gate,
            learned_from=LedgerRange(events=7) if version > 1 else None,
        )
        append_policy_event(self.log, Published(version=version, parent=version - 1, **more))

    def entries(self) -> list[tuple[str, str, int]]:
        self.history.poll()
        return [(e.by, e.action, e.version) for e in self.history.snapshot().audit_entries]

    def snapshot(self) -> dict[str, Any]:
        self.history.poll()
        self.view.follow(self.log)
        return self.learning.snapshot()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.view.close()
    made.log.close()


def test_operations_act_and_refuse_to_change_nothing(home: Home) -> None:
    for version in (1, 2):
        home.publish(version)
    act = home.operations
    with pytest.raises(OperationRefused, match="live already"):
        act.activate(2, "anna")
    with pytest.raises(NoSuchVersion, match="no version 3"):
        act.activate(3, "anna")
    with pytest.raises(OperationRefused, match="not on hold"):
        act.resume("anna")
    assert "from version 2 to 1" in act.rollback("anna", "worse at tea")
    state = home.history.poll()
    assert (state.live, state.held, state.rolled_back) == (1, True, frozenset({2}))
    with pytest.raises(OperationRefused, match="before 1"):
        act.rollback("anna")
    with pytest.raises(OperationRefused, match="on hold already"):
        act.hold("anna")
    act.resume("bert")
    act.hold("bert")
    assert home.entries() == [
        ("setup", "published", 1),
        ("learner", "published", 2),
        ("anna", "rolled_back", 1),
        ("bert", "resumed", 1),
        ("bert", "held", 1),
    ]
    assert home.history.snapshot().audit_entries[2].text == (
        "rolled back from version 2 to 1; publishing is on hold: worse at tea"
    )


def test_a_damaged_version_is_not_activated(home: Home) -> None:
    for version in (1, 2):
        home.publish(version)
    (home.registry.path(1) / "config.json").write_text("{ }")
    with pytest.raises(OperationRefused, match=r"config\.json"):
        home.operations.activate(1, "anna")
    assert home.history.poll().live == 2


def test_the_audit_trail_has_every_action_once_and_no_event_without_effect(home: Home) -> None:
    home.publish(1)
    append_policy_event(home.log, Published(version=1))  # seen before
    append_policy_event(home.log, Leads(learner="a"))
    home.publish(2, leader=_leader(home), trial=True)
    append_policy_event(home.log, DuelEnded(version=2, promoted=True, wins=9, leader="pe-old"))
    append_policy_event(
        home.log, DuelEnded(version=2, promoted=True, wins=9, leader=_leader(home), reason="votes")
    )
    append_policy_event(home.log, Refused(parent=2, reasons=["kl", "text"]))
    append_policy_event(
        home.log, SwapFailed(replica="replica-1", version=2, serving=1, reason="disk")
    )
    name, _ = make_key(home.log, home.history.keys, "user", by="root", name="phone")
    home.history.poll()
    revoke_key(home.log, home.history.keys, name, by="root")
    home.history.poll()
    entries = [(e.by, e.action, e.text) for e in home.history.snapshot().audit_entries][1:]
    assert entries == [
        ("learner", "published", "published version 2, trained from version 1; it is on trial"),
        (
            "learner",
            "promoted",
            "ended the trial of version 2, which is live (9 votes for it, 0 against, 0 for "
            "neither): votes",
        ),
        ("learner", "refused", "refused a candidate policy trained from version 2: kl; text"),
        ("replica-1", "failed", "could not load version 2, still serves 1: disk"),
        ("root", "key_made", "created the key 'phone' (user)"),
        ("root", "key_revoked", "revoked the key 'phone'"),
    ]


def _leader(home: Home) -> str:
    return home.history.poll().leader


def test_a_snapshot_describes_learning(home: Home) -> None:
    home.publish(1)
    append_policy_event(home.log, Leads(learner="a"))
    put(home.log, completion(), rating("r"), comparison("c"))
    figures = {"win_rate": 0.8, "text_nll": 2.5, "odd": math.inf}
    home.publish(2, figures, leader=_leader(home), votes={"rating": 5})
    append_policy_event(
        home.log, Refused(parent=2, reasons=["kl"], gate={"kl": 30.0, "odd": math.nan})
    )
    append_policy_event(home.log, Swapped(replica="replica-0", version=2))
    append_policy_event(home.log, Stage(stage="ppo", cycle=3, leader=_leader(home)))
    append_policy_event(
        home.log, Stage(stage="ppo", cycle=3, iteration=4, iterations=14, leader=_leader(home))
    )
    append_policy_event(home.log, Stage(stage="gate", cycle=2, leader="pe-old"))
    found = home.snapshot()
    began = found["loop"].pop("since")
    assert found["loop"] == {
        "stage": "ppo",
        "cycle": 3,
        "iteration": 4,
        "iterations": 14,
        "votes_missing": None,
        "reason": "",
    }
    assert began == pytest.approx(found["versions"][1]["created"], abs=60)
    assert found["votes"] == {"total": 2, "waiting": 2, "kinds": {"comparison": 1, "rating": 1}}
    assert (found["live"], found["on_trial"], found["held"]) == (2, None, False)
    first, second = found["versions"]
    assert (first["parent"], first["state"], first["figures"]) == (None, "published", {})
    del second["created"]
    assert second == {
        "version": 2,
        "parent": 1,
        "kind": "full",
        "state": "live",
        "votes": 5,
        "from_votes": {"rating": 5},
        "figures": {"win_rate": 0.8, "text_nll": 2.5},
        "has_report": True,
    }
    assert found["refused"][0]["figures"] == {"kl": 30.0}
    assert found["replicas"] == {"replica-0": 2}
    assert len(json.dumps(found, allow_nan=False)) < 4096


def test_a_stage_lasts_from_its_first_report_to_the_next_stage(home: Home) -> None:
    append_policy_event(home.log, Leads(learner="a"))
    times = []
    for stage, iteration in (("judge", 0), ("ppo", 0), ("ppo", 1), ("waiting", 0)):
        leader = _leader(home)
        event = append_policy_event(
            home.log, Stage(stage=stage, cycle=1, iteration=iteration, leader=leader)
        )
        home.history.poll()
        times.append((event.created_ms, home.history.snapshot().learner_status.since_ms))
    assert times[0][0] == times[0][1]
    assert times[1][1] == times[2][1] == times[1][0]
    assert times[3][0] == times[3][1]


def test_a_new_leader_starts_with_an_unknown_stage(home: Home) -> None:
    append_policy_event(home.log, Leads(learner="a"))
    append_policy_event(home.log, Stage(stage="ppo", cycle=1, iteration=3, leader=_leader(home)))
    assert home.snapshot()["loop"]["stage"] == "ppo"
    append_policy_event(home.log, Leads(learner="b"))
    assert home.snapshot()["loop"]["stage"] == "unknown"


def test_a_stage_that_the_log_refused_is_reported_later(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    publisher = Publisher(home.folder, home.log)
    publisher.claim_leadership("a")
    asked = []

    def refuse(*_: Any) -> None:
        asked.append(clock.now)
        raise LogUnavailable("unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(home.log, "append", refuse)
        for clock.now in (1000.0, 1000.5, 1059.0, 1061.0):
            publisher.report_stage("waiting")
    assert asked == [1000.0, 1061.0], "an unavailable log is not asked every time"
    assert home.snapshot()["loop"]["stage"] == "unknown"
    clock.now = 1122.0
    publisher.report_stage("waiting")
    assert home.snapshot()["loop"]["stage"] == "waiting"


def test_a_waiting_learner_says_how_many_votes_are_missing_and_why(home: Home) -> None:
    publisher = Publisher(home.folder, home.log)
    home.publish(1)
    publisher.claim_leadership("a")
    publisher.report_stage("waiting", votes_needed=3, reason="Few.")
    put(home.log, completion("c1"), comparison("e1"))
    loop = home.snapshot()["loop"]
    assert (loop["stage"], loop["votes_missing"], loop["reason"]) == ("waiting", 2, "Few.")
    publisher.report_stage("waiting", votes_needed=1, reason="Unclear.")
    loop = home.snapshot()["loop"]
    assert (loop["votes_missing"], loop["reason"]) == (0, "Unclear.")
    publisher.report_stage("reward", 1)
    loop = home.snapshot()["loop"]
    assert (loop["votes_missing"], loop["reason"]) == (None, "")


def test_what_is_needed_is_reported_again_only_when_it_changes(home: Home) -> None:
    publisher = Publisher(home.folder, home.log)
    for needed in (24, 24, 30, 30):
        publisher.report_stage("waiting", votes_needed=needed, reason="Few.")
    assert len(home.log.read("policies", {})) == 2


def test_every_version_has_a_status(home: Home) -> None:
    for number in (1, 2, 3, 4):
        home.publish(number)
    home.operations.activate(3, "anna")
    home.publish(5)
    found = {v["version"]: v["state"] for v in home.snapshot()["versions"]}
    assert found == {
        1: "published",
        2: "published",
        3: "live",
        4: "rolled_back",
        5: "waiting",
    }


def test_a_version_on_trial_and_one_that_was_pruned_are_shown(home: Home) -> None:
    for number in (1, 2):
        home.publish(number, {"win_rate": 0.7})
    home.publish(3, trial=True)
    home.registry.delete(2)
    found = home.snapshot()
    assert found["on_trial"] == 3
    assert [v["state"] for v in found["versions"]] == ["published", "live", "on_trial"]
    assert found["versions"][1]["figures"] == {}
    assert not found["versions"][1]["has_report"]


def test_a_file_of_a_version_is_read_whole_or_not_at_all(home: Home) -> None:
    home.publish(1)
    assert json.loads(home.registry.read(1, "report.json")) == {"version": 1}
    for version, name in ((2, "report.json"), (1, "nothing"), (1, "../../log.db"), (1, "")):
        with pytest.raises(CheckpointInvalid):
            home.registry.read(version, name)
    (home.registry.path(1) / "report.json").write_text('{"version": 2}')
    with pytest.raises(CheckpointInvalid, match="altered"):
        home.registry.read(1, "report.json")


class Counted(Learning):
    """Counts the snapshots taken."""

    taken = 0

    def snapshot(self) -> dict[str, Any]:
        self.taken += 1
        return super().snapshot()


def test_listeners_share_snapshots_and_all_get_changes(home: Home) -> None:
    home.publish(1)
    home.history.poll()
    learning = Counted(home.history, home.registry, home.view)
    stopped = threading.Event()
    heard: list[list[dict[str, Any]]] = [[] for _ in range(20)]

    async def listen(feed: LearningFeed, into: list[dict[str, Any]]) -> None:
        async for event in feed.events(lambda: True):
            assert event.startswith("event: learning\ndata: {")
            assert event.endswith("}\n\n")
            into.append(json.loads(event.split("data: ")[1]))

    async def everybody() -> float:
        feed = LearningFeed(learning, stopped.is_set)
        listeners = [asyncio.create_task(listen(feed, into)) for into in heard]
        await asyncio.sleep(0.7)
        home.publish(2)
        home.history.poll()
        await asyncio.sleep(1.3)
        loop = asyncio.get_running_loop()
        stopped.set()
        began = loop.time()
        await asyncio.gather(*listeners)
        return loop.time() - began

    assert asyncio.run(everybody()) < 1.0, "stopping is immediate"
    assert [[one["live"] for one in into] for into in heard] == [[1, 2]] * 20
    assert learning.taken <= 6, "two per second"


def test_a_key_s_digest_is_its_sha256(home: Home) -> None:
    _, token = make_key(home.log, home.history.keys, "operator", by="root")
    home.history.poll()
    (digest,) = home.history.keys._ids
    assert digest == hashlib.sha256(token.encode()).digest()
