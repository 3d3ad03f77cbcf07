"""Completion ids are signed for one owner and expire; secrets are created once."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.privacy.identity import (
    CompletionIdClaims,
    ExpiredId,
    ForgedId,
    Secret,
    SecretInvalid,
    check,
    create_completion_id,
    event_id,
    load_or_create_secret,
    owner_of,
    parse_claims,
    retraction_id,
    subject_of,
    subjects_of,
    verify_owner,
)

SECRET = Secret("00000001", {"00000001": b"k" * 32}, b"i" * 32)
DAY = 24 * 3600


def test_an_id_carries_choices_version_and_expiry() -> None:
    completion_id = create_completion_id(SECRET, "local", 4, 7, now=1000.9)
    assert check(SECRET, completion_id, "local", now=2000) == CompletionIdClaims(
        choices=4, expires=1000 + 30 * DAY, policy_version=7
    )
    assert parse_claims(completion_id) == check(SECRET, completion_id, "local", now=2000)


def test_ids_are_short_urlsafe_and_unique() -> None:
    ids = {create_completion_id(SECRET, "local", 2, 1, now=1000) for _ in range(100)}
    assert len(ids) == 100
    assert {len(i) for i in ids} == {61}
    assert all(
        i.removeprefix("chatcmpl-").replace("-", "a").replace("_", "a").isalnum() for i in ids
    )


@settings(deadline=None)
@given(
    owner=st.text(max_size=40),
    choices=st.integers(0, 65_535),
    version=st.integers(0, 2**32 - 1),
    now=st.integers(0, 4_000_000_000),
)
def test_created_ids_are_accepted(owner: str, choices: int, version: int, now: int) -> None:
    claims = check(SECRET, create_completion_id(SECRET, owner, choices, version, now), owner, now)
    assert claims == CompletionIdClaims(choices, now + 30 * DAY, version)


def test_an_id_expires_after_exactly_thirty_days() -> None:
    completion_id = create_completion_id(SECRET, "local", 1, 1, now=0)
    check(SECRET, completion_id, "local", now=30 * DAY - 1)
    with pytest.raises(ExpiredId):
        check(SECRET, completion_id, "local", now=30 * DAY)
    assert verify_owner(SECRET, completion_id, "local").choices == 1


def test_another_owner_s_id_is_forged_even_when_expired() -> None:
    completion_id = create_completion_id(SECRET, "local", 1, 1, now=0)
    with pytest.raises(ForgedId):
        check(SECRET, completion_id, "other", now=40 * DAY)


ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@settings(deadline=None)
@given(position=st.integers(0, 51), character=st.sampled_from(ALPHABET))
def test_any_altered_character_is_detected(position: int, character: str) -> None:
    body = create_completion_id(SECRET, "local", 2, 1, now=0).removeprefix("chatcmpl-")
    altered = body[:position] + character + body[position + 1 :]
    if altered == body:
        check(SECRET, f"chatcmpl-{altered}", "local", now=0)
    else:
        with pytest.raises(ForgedId):
            check(SECRET, f"chatcmpl-{altered}", "local", now=0)


@settings(deadline=None)
@given(st.text(max_size=80))
def test_arbitrary_text_is_rejected(text: str) -> None:
    for candidate in (text, f"chatcmpl-{text}"):
        with pytest.raises(ForgedId):
            check(SECRET, candidate, "local")


@pytest.mark.parametrize("change", [" {}", "{}\n", "{}=", "x{}", "{}A", "{}\x00"])
def test_an_id_with_something_around_it_is_forged(change: str) -> None:
    with pytest.raises(ForgedId):
        check(SECRET, change.format(create_completion_id(SECRET, "local", 1, 1)), "local")


def test_the_prefix_of_text_completions_is_accepted() -> None:
    body = create_completion_id(SECRET, "local", 1, 1).removeprefix("chatcmpl-")
    assert check(SECRET, f"cmpl-{body}", "local").choices == 1


def test_keys_rotate_and_a_dropped_key_s_ids_are_forged() -> None:
    old_id = create_completion_id(SECRET, "local", 1, 1)
    keys = {**SECRET.keys, "00000002": b"n" * 32}
    rotated = Secret("00000002", keys, SECRET.identity)
    check(rotated, old_id, "local")
    new_id = create_completion_id(rotated, "local", 1, 1)
    check(rotated, new_id, "local")
    with pytest.raises(ForgedId):
        check(SECRET, new_id, "local")
    dropped = Secret("00000002", {"00000002": keys["00000002"]}, SECRET.identity)
    with pytest.raises(ForgedId):
        check(dropped, old_id, "local")
    assert owner_of(rotated, "key") == owner_of(SECRET, "key"), "owners outlive keys"
    assert event_id(rotated, "local", "k") == event_id(SECRET, "local", "k")


@pytest.mark.parametrize("choices", [-1, 65_536])
def test_choices_out_of_range_are_refused(choices: int) -> None:
    with pytest.raises(ValueError, match="choices must be between 0 and 65535"):
        create_completion_id(SECRET, "local", choices, 1)


def test_owners_and_subjects_are_pseudonyms() -> None:
    assert owner_of(SECRET, None) == "local"
    owner = owner_of(SECRET, "sk-1")
    assert owner == owner_of(SECRET, "sk-1")
    assert len({owner, owner_of(SECRET, "sk-2"), owner_of(SECRET, ""), "local"}) == 4
    assert "sk-1" not in owner
    assert subject_of(SECRET, owner, None) == subject_of(SECRET, owner, "") == ""
    anne = subject_of(SECRET, owner, "anne")
    assert anne == subject_of(SECRET, owner, "anne")
    assert anne != subject_of(SECRET, "local", "anne"), "another owner's anne is another person"
    assert len(anne) == len(owner) == 24


def test_signed_parts_cannot_be_confused() -> None:
    assert subject_of(SECRET, "ab", "c") != subject_of(SECRET, "a", "bc")
    assert event_id(SECRET, "ab", "c") != event_id(SECRET, "a", "bc")
    assert event_id(SECRET, "a", "b") != retraction_id(SECRET, "a", "b")
    assert event_id(SECRET, "a", "b") != f"fb-{subject_of(SECRET, 'a', 'b')}"


def test_event_ids_repeat_with_the_key_and_only_with_it() -> None:
    assert event_id(SECRET, "local", "k") == event_id(SECRET, "local", "k")
    assert event_id(SECRET, "local", "k") != event_id(SECRET, "other", "k")
    assert event_id(SECRET, "local", None) != event_id(SECRET, "local", None)
    assert event_id(SECRET, "local", None).startswith("fb-")


def test_a_secret_file_is_created_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret.json"
    secret = load_or_create_secret(path)
    assert load_or_create_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    stored = json.loads(path.read_text())
    assert stored["keys"][secret.current] == secret.keys[secret.current].hex()
    assert len(secret.keys[secret.current]) == 32
    assert stored["identity"] not in repr(secret)
    assert stored["keys"][secret.current] not in repr(secret)


def test_processes_that_start_together_share_one_secret(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from feedback.privacy.identity import *; "
        "sys.stdin.readline(); print(load_or_create_secret(Path(sys.argv[1])).keys)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "secret.json")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = {process.communicate(timeout=60)[0] for process in processes}
    assert len(answers) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["secret.json"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"current": "00000001", "keys": {}, "identity": "' + "00" * 32 + '"}',
        '{"current": "00000001", "keys": {"00000001": "00"}, "identity": "' + "00" * 32 + '"}',
        '{"current": "1", "keys": {"1": "' + "00" * 32 + '"}, "identity": "' + "00" * 32 + '"}',
    ],
)
def test_a_broken_secret_file_is_rejected_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "secret.json"
    path.write_text(content)
    with pytest.raises(SecretInvalid, match=r"secret\.json"):
        load_or_create_secret(path)
    assert path.read_text() == content


def test_a_user_has_one_subject_however_accents_are_encoded() -> None:
    composed, decomposed = "Zoë", "Zoe\u0308"
    assert composed != decomposed
    assert subject_of(SECRET, "local", composed) == subject_of(SECRET, "local", decomposed)
    assert subject_of(SECRET, "local", composed) != subject_of(SECRET, "local", "Zoe")


def test_subjects_of_earlier_records_are_found() -> None:
    assert subjects_of(SECRET, "local", "anna") == [subject_of(SECRET, "local", "anna")]
    for user in ("Zoë", "Zoe\u0308"):
        current, earlier = subjects_of(SECRET, "local", user)
        assert current == subject_of(SECRET, "local", user)
        assert earlier not in (current, "")
