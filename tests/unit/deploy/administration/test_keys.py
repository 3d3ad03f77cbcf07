"""`plaudit keys`."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.administration.keys import _secret, end_text
from feedback.control.history import History
from feedback.control.key_operations import KeyRejected, make_key
from feedback.control.keys import Key, KeyRing, key_create_command, no_valid_key_message
from feedback.control.policies import append_policy_event
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.identity import load_or_create_secret, owner_of
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


def read_ring(home: Path) -> KeyRing:
    log = SqliteLog(home / "log.db")
    history = History(log)
    history.poll()
    log.close()
    return history.keys


def test_a_key_expires_and_is_rotated(tmp_path: Path) -> None:
    home = ["--home", str(tmp_path)]
    old = run_command(
        "keys", "create", "--role", "user", "--name", "anna", "--expires", "30d", *home
    ).split()[-1]
    listed = run_command("keys", "list", *home)
    assert "ends" in listed.splitlines()[0]
    assert "in 29 days" in listed
    rotated = run_command("keys", "rotate", "anna", "--grace", "24h", "--expires", "never", *home)
    assert "The old key 'anna' (key-" in rotated
    assert ") ends 20" in rotated
    first, second = read_ring(tmp_path).keys.values()
    assert first.expires_ms is not None
    assert first.expires_ms - second.made_ms == 24 * 3_600_000
    assert second.expires_ms is None
    secret = load_or_create_secret(tmp_path / "secret.json")
    assert second.owner == owner_of(secret, old), "votes stay with the owner"
    assert "in 23 hours" in run_command("keys", "list", *home)
    assert "is revoked" in run_command("keys", "rotate", "anna", *home)
    assert read_ring(tmp_path).find(old) is None


def test_a_key_of_an_earlier_version_is_rotated_with_its_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SqliteLog(tmp_path / "log.db")
    _, old = make_key(log, KeyRing(), "user", by="test", name="anna")
    log.close()
    rotate = ("keys", "rotate", "anna", "--home", str(tmp_path))
    with pytest.raises(KeyRejected, match="not the key 'anna'"):
        run_command(*rotate, "--api-key", "plk-x")
    monkeypatch.setenv("PLAUDIT_API_KEY", old)  # arguments can be read by others
    token = run_command(*rotate).split()[-1]
    key = read_ring(tmp_path).find(token)
    assert key is not None
    assert key.owner == owner_of(load_or_create_secret(tmp_path / "secret.json"), old)


def test_a_service_s_key_is_made_and_rotated_with_trusted_users(tmp_path: Path) -> None:
    home = ["--home", str(tmp_path)]
    app = ["keys", "create", "--role", "user", "--name", "app", "--trusted-users", "--rate", "9"]
    owner = owner_of(
        load_or_create_secret(tmp_path / "secret.json"), run_command(*app, *home).split()[-1]
    )
    assert run_command("keys", "list", *home).strip().endswith("9 per minute, trusted users")
    assert read_ring(tmp_path).trusted_owners() == {owner}
    run_command("keys", "rotate", "app", "--no-trusted-users", *home)
    assert read_ring(tmp_path).trusted_owners() == set()


def test_a_fleet_s_secret_is_not_invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAUDIT_KAFKA_SERVERS", "k1:9092")
    assert _secret(tmp_path) is None
    assert not (tmp_path / "secret.json").exists()


@pytest.mark.parametrize(
    ("left_ms", "text"),
    [
        (0, "expired"),
        (59_999, "in less than a minute"),
        (60_000, "in 1 minute"),
        (7_200_000, "in 2 hours"),
        (86_400_000, "in 1 day"),
    ],
)
def test_the_list_says_when_a_key_expires(left_ms: int, text: str) -> None:
    key = Key("key-1", "anna", "user", 0, 0, 0, expires_ms=1_000 + left_ms)
    assert end_text(key, 1_000) == text
    assert end_text(replace(key, expires_ms=None), 1_000) == ""
    assert end_text(replace(key, revoked_ms=86_400_000), 1_000).startswith("revoked 1970-01-0")


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
