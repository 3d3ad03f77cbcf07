"""`plaudit keys`."""

import shlex
from pathlib import Path

import pytest

from feedback.control.history import History
from feedback.control.keys import KeyRing, key_create_command, no_valid_key_message
from feedback.control.policies import append_policy_event
from feedback.log.sqlite_log import SqliteLog
from protos.plaudit.v1.policy_pb2 import KeyMade
from serving.services import require_valid_key
from tests.support.deployment.commands import run_command


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    home = ["--home", str(tmp_path / "home")]
    made = run_command(
        "keys", "create", "--role", "annotator", "--name", "anna", "--quota", "50", *home
    )
    assert "From now on every request needs a key." in made
    assert str(tmp_path / "home" / "log.db") in made.replace("\n", "")
    token = made.split()[-1]
    assert token.startswith("plk-")
    assert "From now on" not in run_command("keys", "create", "--role", "operator", *home)
    listed = run_command("keys", "list", *home)
    assert token not in listed
    anna, key = listed.splitlines()[1:]
    assert anna.split()[1:3] == ["anna", "annotator"]
    assert anna.strip().endswith("0 of 50 today")
    assert key.split()[2] == "operator"
    assert len(key.split()) == 4, "no limits, and not revoked"
    assert "is revoked" in run_command("keys", "revoke", "anna", *home)
    today = key.split()[3]
    assert run_command("keys", "list", *home).count(today) == 3
    log = SqliteLog(tmp_path / "home" / "log.db")
    history = History(log)
    history.poll()
    assert history.keys.find(token) is None
    assert history.keys.usable
    log.close()


def test_names_are_printed_literally(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    append_policy_event(log, KeyMade(id="key-1", name="bob[/x]:cat:", role="user", digest=b"d"))
    log.close()
    assert "bob[/x]:cat:" in run_command("keys", "list", "--home", str(tmp_path))


def test_the_advised_command_creates_the_key_in_the_right_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "two words"
    command = (
        no_valid_key_message(KeyRing(), "0.0.0.0", home)
        .splitlines()[1]
        .partition("create a key: ")[2]
    )
    run_command(*shlex.split(command)[1:])
    log = SqliteLog(home / "log.db")
    history = History(log)
    history.poll()
    require_valid_key("0.0.0.0", history, home)
    log.close()
    monkeypatch.setenv("PLAUDIT_KAFKA_SERVERS", "k1:9092,k2:9092")
    assert key_create_command(home).endswith("two words' --kafka k1:9092,k2:9092")
