"""Policy events are signed: those of another writer of the topic do not count."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from feedback.control.history import History
from feedback.control.key_operations import make_key
from feedback.control.policies import append_policy_event, current_state
from feedback.log.event_log import LogError
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.identity import load_or_create_secret, policy_event_key
from feedback.privacy.signing import SignedLog, is_authentic, is_signed, sign
from protos.plaudit.v1.policy_pb2 import Activated, Hold, PolicyEvent, Published
from tests.support.feedback_samples import completion, put


@pytest.fixture
def topic(tmp_path: Path) -> Iterator[SqliteLog]:
    """The log as whoever can write the topic sees it."""
    log = SqliteLog(tmp_path / "log.db")
    yield log
    log.close()


@pytest.fixture
def log(topic: SqliteLog, tmp_path: Path) -> SignedLog:
    return SignedLog(topic, tmp_path / "home" / "secret.json")


def test_an_operator_s_key_of_another_writer_does_not_count(
    log: SignedLog, topic: SqliteLog, caplog: pytest.LogCaptureFixture
) -> None:
    history = History(log)
    append_policy_event(log, Published(version=1))
    _, token = make_key(log, history.keys, "operator", by="anna")
    _, forged = make_key(topic, history.keys, "operator", by="mallory")
    append_policy_event(topic, Activated(version=1))
    append_policy_event(log, Published(version=2, parent=1))
    for reader in (history, History(log)):
        assert reader.poll().live == 2
        assert reader.keys.find(token) is not None
        assert reader.keys.find(forged) is None
    assert caplog.text.count("was not written by this installation") == 1


def test_what_an_earlier_release_appended_counts_before_the_first_signed_event(
    log: SignedLog, topic: SqliteLog, tmp_path: Path
) -> None:
    for version in range(1, 5):
        append_policy_event(topic, Published(version=version, parent=version - 1))
    assert current_state(log).live == 4
    append_policy_event(log, Published(version=5, parent=4))
    append_policy_event(topic, Hold(held=True))
    append_policy_event(topic, Published(version=6, parent=5))
    later = SignedLog(topic, tmp_path / "home" / "secret.json")
    assert (current_state(later).live, current_state(later).held) == (5, False)
    assert [r.value == b"" for r in later.read("policies", {0: topic.ends("policies")[0] - 2})] == [
        True,
        True,
    ]


def test_a_home_without_the_installation_s_secret_is_refused(
    log: SignedLog, topic: SqliteLog, tmp_path: Path
) -> None:
    append_policy_event(log, Published(version=1))
    absent = tmp_path / "elsewhere" / "secret.json"
    for use in (current_state, lambda other: append_policy_event(other, Published(version=2))):
        with pytest.raises(LogError, match=r"is missing, .* copy the installation's secret"):
            use(SignedLog(topic, absent))
    assert not absent.exists()
    load_or_create_secret(absent)
    with pytest.raises(LogError, match="signed with another secret"):
        current_state(SignedLog(topic, absent))


def test_a_signature_covers_every_byte_of_the_event(tmp_path: Path) -> None:
    key = policy_event_key(load_or_create_secret(tmp_path / "secret.json"))
    event = PolicyEvent(event_id="e", created_ms=7, hold=Hold(held=True))
    value = sign(key, event.SerializeToString())
    assert is_signed(value)
    assert is_authentic(key, value)
    assert PolicyEvent.FromString(value).hold.held
    for place in range(len(value)):
        changed = bytes([*value[:place], value[place] ^ 1, *value[place + 1 :]])
        assert not is_authentic(key, changed), place
    assert not is_authentic(bytes(32), value)
    assert not is_authentic(key, event.SerializeToString())
    assert not is_authentic(key, b"")


def test_other_topics_pass_unchanged(log: SignedLog, topic: SqliteLog) -> None:
    put(log, completion("c1"))
    assert log.read("completions", {}) == topic.read("completions", {})
    assert log.ends("completions") == topic.ends("completions")
    assert log.failure() is None
