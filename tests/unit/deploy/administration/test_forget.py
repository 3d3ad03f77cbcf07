"""`plaudit feedback forget` on a home: what it erases and reports, and running it again."""

import hashlib
import json
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from deploy.administration import forget as module
from deploy.administration.forget import affected_versions, forget
from deploy.administration.persons import Sender, write_held
from deploy.errors import DeployError
from deploy.vote_files.exchange import export_feedback
from feedback.control.policies import append_policy_event
from feedback.ledger.rows import Erasure
from feedback.ledger.store import Ledger
from feedback.log.event_log import LogUnavailable, RecordKey
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.identity import (
    LOCAL_OWNER,
    load_or_create_secret,
    owner_of,
    subject_of,
    subjects_of,
)
from feedback.registry import home_registry
from feedback.view.feedback_view import View
from learner.cycle.lease import FileLease
from protos.checkpoints.folder_registry import FolderRegistry
from protos.plaudit.v1.checkpoint_pb2 import LedgerRange, Manifest
from protos.plaudit.v1.policy_pb2 import KeyMade, Published
from tests.support.feedback_samples import completion, put, rating

KEY = "a key"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home where Ann and Bob chatted and voted, with and without a key.

    Versions 2 and 3 learned from them.
    """
    home = tmp_path / "home"
    secret = load_or_create_secret(home / "secret.json")
    log = SqliteLog(home / "log.db")
    for owner in (LOCAL_OWNER, owner_of(secret, KEY)):
        for name in ("bob", "ann"):
            subject, c = subject_of(secret, owner, name), f"c-{owner}-{name}"
            put(log, completion(c, owner=owner, subject=subject, question=f"{name}'s {owner}"))
            for i in range(2):
                vote = rating(f"e{i}-{c}", i, completion_id=c, owner=owner, subject=subject)
                put(log, vote)
    ann = subject_of(secret, LOCAL_OWNER, "ann")
    put(log, rating("on bob's", completion_id="c-local-bob", subject=ann, reason="ann's local"))
    for version in (1, 2, 3):
        append_policy_event(log, Published(version=version, parent=version - 1))
    ledger, view = Ledger(home / "ledger.db"), View(home / "view-replica-0.db")
    ledger.follow(log)
    view.follow(log)
    outbox = SqliteLog(home / "outbox-replica-0.db")
    put(outbox, completion("c-out", subject=ann, question="ann's local"), completion("c-else"))
    for opened in (log, ledger, view, outbox):
        opened.close()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    # Sequence numbers: Bob's votes 1 and 2, Ann's 3 and 4, then those with the key.
    for version, to_seq in ((1, 0), (2, 2), (3, 5)):
        FolderRegistry(home / "registry").publish(
            tmp_path / "model",
            version=version,
            parent=version - 1,
            base="tiny",
            learned_from=LedgerRange(to_seq=to_seq),
        )
    return home


@pytest.fixture(autouse=True)
def _no_replica_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_VIEW_SECONDS", 0.2)


def bytes_of(home: Path) -> bytes:
    return b"".join(p.read_bytes() for p in home.glob("*.db*"))


def exported(home: Path) -> list[str]:
    export_feedback(home, home.parent / "out.jsonl")
    lines = (home.parent / "out.jsonl").read_text().splitlines()
    return [json.loads(line)["prompt"][0]["content"] for line in lines]


def report_of(home: Path, user: str, **how: Any) -> list[str]:
    lines: list[str] = []
    forget(home, Sender(user, **how), lines.append)
    return lines


def test_no_byte_of_a_forgotten_person_is_left_and_others_stay(home: Path) -> None:
    assert b"ann's local" in bytes_of(home)
    lines = report_of(home, "ann")
    assert b"ann's local" not in bytes_of(home)
    outbox = SqliteLog(home / "outbox-replica-0.db")
    assert [r.key for r in outbox.read("completions", {})] == ["c-else"]
    outbox.close()
    assert sorted(prompt.split("'")[0] for prompt in exported(home)) == ["ann", "ann", *["bob"] * 4]
    ledger = Ledger(home / "ledger.db")
    assert len(ledger.effective_events()) == 6
    ledger.close()
    assert lines == [
        "outbox-replica-0.db: erased 1 completions.",
        "Log: erased 1 completions, 3 feedback events and 0 dead letters (including feedback of "
        "others on these completions).",
        "view-replica-0.db: erased.",
        "ledger.db: erased 1 completions and 3 feedback events, now and before.",
        "Versions that learned from this person: 2, 3.",
        "The next reward model is trained without this person; these versions do not change.",
        "Version 3 is live, and the next version is trained from it. To go back to one that did "
        "not learn from this person: 'plaudit policies activate 1', then 'plaudit policies "
        "resume'.",
    ]


def test_records_from_before_names_were_normalised_are_found(home: Path) -> None:
    secret, log = load_or_create_secret(home / "secret.json"), SqliteLog(home / "log.db")
    for number, subject in enumerate(subjects_of(secret, LOCAL_OWNER, "Zoë")):
        put(log, completion(f"c-{number}", subject=subject, question="asked by Zoë"))
    log.close()
    assert "asked by Zoë".encode() in (home / "log.db").read_bytes()
    forget(home, Sender("Zoe\u0308"), print)
    assert "asked by Zoë".encode() not in (home / "log.db").read_bytes()


def make_key(home: Path, key_id: str, name: str = "app", token: str = KEY, owner: str = "") -> None:
    log = SqliteLog(home / "log.db")
    digest = hashlib.sha256(token.encode()).digest()
    append_policy_event(log, KeyMade(id=key_id, name=name, role="user", digest=digest, owner=owner))
    log.close()


def key_owner(home: Path) -> str:
    return owner_of(load_or_create_secret(home / "secret.json"), KEY)


def test_the_key_s_name_or_owner_decides_whose_user_it_is(home: Path) -> None:
    owner = key_owner(home)
    make_key(home, "key-1", owner=owner)
    report_of(home, "ann", key="app")
    assert b"ann's local" in bytes_of(home)
    assert f"ann's {owner}".encode() not in bytes_of(home)
    assert f"bob's {owner}".encode() in bytes_of(home)
    report_of(home, "bob", owner=owner)
    assert f"bob's {owner}".encode() not in bytes_of(home)
    assert b"bob's local" in bytes_of(home)


def test_a_rotated_key_names_the_same_owner(home: Path) -> None:
    owner = key_owner(home)
    make_key(home, "key-1", owner=owner)
    make_key(home, "key-2", token="plk-new", owner=owner)
    report_of(home, "ann", key="app")
    assert f"ann's {owner}".encode() not in bytes_of(home)


def test_a_key_without_a_stored_owner_is_asked_for(home: Path) -> None:
    make_key(home, "key-1")
    with pytest.raises(DeployError, match="owner of the key 'app' is not stored"):
        report_of(home, "ann", key="app")
    with pytest.raises(DeployError, match="is not the key 'app'"):
        report_of(home, "ann", key="app", ask=lambda _: "another")
    report_of(home, "ann", key="app", ask=lambda _: KEY)
    assert f"ann's {key_owner(home)}".encode() not in bytes_of(home)


def test_a_name_that_two_owners_had_needs_an_id(home: Path) -> None:
    make_key(home, "key-1", owner="x")
    make_key(home, "key-2", owner=key_owner(home), token="another")
    with pytest.raises(DeployError, match="give the id of one: key-1, key-2"):
        report_of(home, "ann", key="app")
    with pytest.raises(DeployError, match="there is no key 'ap'"):
        report_of(home, "ann", key="ap")
    report_of(home, "ann", key="key-2")
    assert f"ann's {key_owner(home)}".encode() not in bytes_of(home)


def test_records_from_a_clock_that_is_ahead_are_erased_everywhere(home: Path) -> None:
    ann = subject_of(load_or_create_secret(home / "secret.json"), LOCAL_OWNER, "ann")
    later = int(time.time() * 1000) + 30_000
    record = completion("c-ahead", subject=ann, question="ann's local", created_ms=later)
    vote = rating("e-ahead", completion_id="c-ahead", subject=ann, created_ms=later)
    log, ledger = SqliteLog(home / "log.db"), Ledger(home / "ledger.db")
    view = View(home / "view-replica-0.db")
    put(log, record, vote)
    ledger.follow(log)
    view.follow(log)
    report_of(home, "ann")
    assert b"ann's local" not in bytes_of(home)
    put(log, record, rating("e-late", completion_id="c-ahead", subject=ann, created_ms=later))
    put(log, completion("c-new", subject=ann, question="asked afterwards", created_ms=later))
    ledger.follow(log)
    view.follow(log)
    ledger.erase_forgotten(log)
    assert {r.key for r in log.read("completions", {})} >= {"c-new"}
    assert b"ann's local" not in bytes_of(home)
    assert b"asked afterwards" in bytes_of(home)
    for opened in (log, ledger, view):
        opened.close()


def test_whoever_gave_no_name_can_be_forgotten(home: Path) -> None:
    log = SqliteLog(home / "log.db")
    put(
        log,
        completion("c-nobody", question="without a name"),
        rating("e", completion_id="c-nobody"),
    )
    log.close()
    report_of(home, "")
    assert b"without a name" not in bytes_of(home)
    assert b"ann's local" in bytes_of(home)


def test_what_is_held_about_a_person_is_written_first(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "held.jsonl"
    assert write_held(home, Sender("ann"), out) == 5
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(row.get("eventId", row["completionId"]) for row in rows) == [
        *("c-local-ann", "c-out", "e0-c-local-ann", "e1-c-local-ann", "on bob's")
    ]
    assert rows[0]["messages"][0]["content"] == "ann's local"
    assert out.stat().st_mode & 0o077 == 0
    with pytest.raises(DeployError, match="exists already"):
        write_held(home, Sender("ann"), out)
    report_of(home, "ann")
    assert write_held(home, Sender("ann"), tmp_path / "after.jsonl") == 0


def test_running_it_again_is_harmless_and_an_unknown_person_is_reported(home: Path) -> None:
    report_of(home, "ann")
    left = exported(home)
    assert report_of(home, "ann")[1].startswith("Log: erased 0 completions, 0 feedback events")
    assert exported(home) == left
    lines = report_of(home, "nobody")
    assert any("Found nothing of 'nobody'" in line and "--key" in line for line in lines)
    assert exported(home) == left


def test_running_it_again_after_a_failure_erases_the_rest(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    erase = SqliteLog.erase

    def fails_on_completions(self: SqliteLog, topic: str, keys: list[RecordKey]) -> None:
        if topic == "completions" and self.path.name == "log.db":
            raise LogUnavailable("away")
        erase(self, topic, keys)  # type: ignore[arg-type]

    monkeypatch.setattr(SqliteLog, "erase", fails_on_completions)
    with pytest.raises(LogUnavailable):
        report_of(home, "ann")
    assert b"ann's local" in bytes_of(home)
    monkeypatch.undo()
    report_of(home, "ann")
    assert b"ann's local" not in bytes_of(home)


def test_a_running_learner_erases_its_own_ledger(home: Path) -> None:
    """The command waits for the learner."""
    stop, log, ledger = threading.Event(), SqliteLog(home / "log.db"), Ledger(home / "ledger.db")

    def learner() -> None:
        while not stop.wait(0.3):
            ledger.follow(log)

    with FileLease(home / "learner" / "lease.lock") as lease:
        assert lease.acquire(1)
        thread = threading.Thread(target=learner)
        thread.start()
        try:
            lines = report_of(home, "ann")
        finally:
            stop.set()
            thread.join()
    assert "ledger.db: erased 1 completions and 3 feedback events, now and before." in lines
    for opened in (log, ledger):
        opened.close()
    assert b"ann's local" not in bytes_of(home)


def test_what_cannot_be_done_is_reported(home: Path, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=r"no secret\.json"):
        report_of(tmp_path, "ann")
    assert not (tmp_path / "secret.json").exists()
    (home / "ledger.db").unlink()
    assert any("no learner has run" in line for line in report_of(home, "ann"))


def test_a_topic_that_is_never_compacted_is_reported() -> None:
    assert "within 7 days (max.compaction.lag.ms=604800000)" in module._erasure_schedule(
        "t", 604_800_000
    )
    assert (
        "never removes them from the topic t. Set cleanup.policy=compact"
        in module._erasure_schedule("t", None)
    )


def test_a_version_of_somebody_else_does_not_hide_which_learned_from_the_person(
    home: Path,
) -> None:
    home_registry(home)
    registry = FolderRegistry(home / "registry")
    registry.publish(home.parent / "model", version=4, parent=1, base="tiny")
    lines: list[str] = []
    forget(home, Sender("ann"), lines.append)
    assert any("unknown whether version 4 learned from this person" in line for line in lines)
    assert "Versions that learned from this person: 2, 3." in lines


def test_it_is_a_command(home: Path) -> None:
    command = [sys.executable, "-m", "deploy.commands.main", "feedback", "forget"]
    options = ["--subject", "ann", "--home", str(home)]
    both = subprocess.run([*command, *options, "--unnamed"], capture_output=True, text=True)
    assert "one of the two" in both.stdout
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Versions that learned from this person: 2, 3." in done.stdout
    assert b"ann's local" not in bytes_of(home)
    for file in home.glob("*.db"):
        connection = sqlite3.connect(file)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()


def test_affected_versions_are_distinguished_from_those_trained_without() -> None:
    def manifest(version: int, parent: int, upto: int, forgettings: int = 0) -> Manifest:
        learned = LedgerRange(to_seq=upto, forgettings=forgettings)
        return Manifest(version=version, parent=parent, learned_from=learned)

    manifests = [
        manifest(1, 0, 0),
        manifest(2, 1, 9),
        manifest(3, 2, 10),
        manifest(4, 3, 20, forgettings=1),
        manifest(5, 2, 30, forgettings=1),
        manifest(6, 5, 40, forgettings=2),
        manifest(7, 4, 50, forgettings=4),
    ]
    once = Erasure(1, "f", first_seq=10, events=1, completions=0)
    assert affected_versions(manifests, [once]) == ([3], [4, 7])
    again = Erasure(4, "g", first_seq=35, events=1, completions=0)
    assert affected_versions(manifests, [once, again]) == ([3, 6], [4, 7])
    nothing = Erasure(2, "h", first_seq=None, events=1, completions=0)
    assert affected_versions(manifests, [nothing]) == ([], [])
    pruned = [
        manifests[0],
        Manifest(
            version=8, parent=7, learned_from=LedgerRange(from_seq=50, to_seq=60, forgettings=4)
        ),
    ]
    assert affected_versions(pruned, [once]) == ([], [8])
