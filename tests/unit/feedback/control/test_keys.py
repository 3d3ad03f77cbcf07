"""API keys: creation, lookup, revocation; rate limits and daily quotas."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from feedback.api.http_errors import ApiError
from feedback.control.history import History
from feedback.control.key_operations import (
    KeyRejected,
    make_key,
    owner_from_token,
    revoke_key,
    rotate_key,
)
from feedback.control.keys import KeyRing, Role, milliseconds_now
from feedback.control.policies import append_policy_event
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.identity import Secret, owner_of
from protos.plaudit.v1.policy_pb2 import KeyMade
from serving.http.access import METERED, Access, is_loopback
from serving.http.quotas import Cost
from serving.http.usage import Usage

SECRET = Secret("00000001", {"00000001": b"k" * 32}, b"i" * 32)


class Home:
    """A log with keys, and a replica that checks them."""

    def __init__(self, folder: Path) -> None:
        self.log = SqliteLog(folder / "log.db")
        self.history = History(self.log)
        self.now = 0.0
        self.usage = Usage(folder / "usage.db")
        self.seconds = time.time()
        self.outdated = False
        self.access = Access(
            SECRET,
            self.ring,
            self.usage,
            clock=lambda: self.now,
            vote_rate=3,
            outdated=lambda: self.outdated,
            wall_clock=lambda: self.seconds,
        )

    def ring(self) -> KeyRing:
        self.history.poll()
        return self.history.keys

    def vote(self, token: str) -> int:
        return self.status(token, "POST", "/v1/feedback")

    def make(self, role: Role = "user", **more: object) -> str:
        return make_key(self.log, self.ring(), role, by="test", **more)[1]  # type: ignore[arg-type]

    def rotate(self, name: str, **more: object) -> str:
        return rotate_key(self.log, self.ring(), name, by="test", **more)[1]  # type: ignore[arg-type]

    def owner(self, token: str) -> str:
        headers = [(b"authorization", f"Bearer {token}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": headers}
        return self.access.admit(scope).owner

    def status(self, token: str, method: str = "GET", path: str = "/v1/models") -> int:
        headers = [(b"authorization", f"Bearer {token}".encode())]
        scope = {"type": "http", "method": method, "path": path, "headers": headers}
        try:
            self.access.admit(scope)
            cost = Cost(requests=int(path in METERED))
            self.take_back = self.access.spend(scope, cost)
        except ApiError as error:
            self.error = error
            return error.status
        return 200

    def chat(self, token: str) -> int:
        return self.status(token, "POST", "/v1/chat/completions")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.usage.close()
    made.log.close()


def test_the_log_holds_no_token(home: Home, tmp_path: Path) -> None:
    token = home.make(name="anna")
    assert token.startswith("plk-")
    assert len(token) == len("plk-") + 43, "256 bits in base64"
    home.log.close()
    for file in tmp_path.iterdir():
        assert token.encode() not in file.read_bytes(), file
        assert token.removeprefix("plk-").encode() not in file.read_bytes(), file


def test_a_revoked_key_is_rejected_and_stays_listed(home: Home) -> None:
    token, other = home.make(name="anna"), home.make(name="bert")
    assert home.status(token) == 200
    (revoked,) = revoke_key(home.log, home.ring(), "anna", by="test")
    assert (home.status(token), home.error.code) == (401, "invalid_api_key")
    assert home.status(other) == 200
    assert [k.revoked_ms is None for k in home.ring().keys.values()] == [False, True]
    with pytest.raises(KeyRejected, match="no valid key"):
        revoke_key(home.log, home.ring(), revoked.id, by="test")


def test_revoking_the_last_key_does_not_open_the_server(home: Home) -> None:
    token = home.make()
    revoke_key(home.log, home.ring(), *home.ring().keys, by="test")
    assert home.ring().required
    assert not home.ring().usable
    assert home.status(token) == 401
    assert home.status("") == 401


def test_a_name_belongs_to_one_valid_key(home: Home) -> None:
    home.make(name="anna")
    with pytest.raises(KeyRejected, match="already"):
        home.make(name="anna")
    revoke_key(home.log, home.ring(), "anna", by="test")
    assert home.status(home.make(name="anna")) == 200


def test_revoking_a_name_revokes_all_keys_with_it(home: Home) -> None:
    before = home.ring()  # two commands read the same keys, then each creates one
    tokens = [make_key(home.log, before, "user", by="test", name="anna")[1] for _ in range(2)]
    other = home.make(name="bert")
    assert [home.status(token) for token in tokens] == [200, 200]
    assert len(revoke_key(home.log, home.ring(), "anna", by="test")) == 2
    assert [home.status(token) for token in (*tokens, other)] == [401, 401, 200]


@pytest.mark.parametrize(
    "name", ["", "bob[/x]", "two words", "a\nb", "x" * 65, "learner", "Learner", "setup", "local"]
)
def test_malformed_and_reserved_names_are_rejected(home: Home, name: str) -> None:
    with pytest.raises(KeyRejected, match="cannot be named"):
        home.make(name=name)
    assert not home.ring().required


def test_a_name_may_be_an_address(home: Home) -> None:
    assert home.status(home.make(name="anna.b-c_1@example.org")) == 200


def test_a_key_with_an_unknown_role_is_not_valid(home: Home) -> None:
    token = home.make()
    append_policy_event(home.log, KeyMade(id="key-x", name="x", role="emperor", digest=b"d"))
    assert home.ring().keys["key-x"].name == "x"
    assert list(home.ring()._ids.values()) == list(home.ring().keys)[:1]
    assert home.status(token) == 200


@pytest.mark.parametrize("header", ["", "Basic {}", "{}", "Bearer", "Bearer {}x", "Bearer x{}"])
def test_only_an_exact_bearer_token_is_accepted(home: Home, header: str) -> None:
    token = home.make()
    headers = [(b"authorization", header.format(token).encode())]
    scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": headers}
    with pytest.raises(ApiError) as refused:
        home.access.admit(scope)
    assert refused.value.status == 401
    assert refused.value.headers == {"WWW-Authenticate": "Bearer"}


def test_a_rate_allows_a_burst_of_one_minute_and_refills_steadily(home: Home) -> None:
    token, other = home.make(rate=6), home.make()
    assert [home.status(token) for _ in range(7)] == [200] * 6 + [429]
    assert home.error.code == "rate_limit_exceeded"
    assert home.error.headers == {"Retry-After": "10"}, "6 a minute are one in 10 s"
    assert home.status(other) == 200
    home.now += 9.9
    assert home.status(token) == 429
    assert home.error.headers == {"Retry-After": "1"}
    home.now += 0.1
    assert [home.status(token) for _ in range(2)] == [200, 429]
    home.now += 3600
    assert [home.status(token) for _ in range(7)] == [200] * 6 + [429], "the burst is limited"


def test_a_quota_limits_completions_per_day(tmp_path: Path) -> None:
    day = [86_400.0 * 20_000 + 86_399]
    home = Home(tmp_path)
    home.usage = Usage(tmp_path / "usage.db", clock=lambda: day[0])
    home.access = Access(SECRET, home.ring, home.usage)
    token = home.make(quota=2)
    assert [home.chat(token) for _ in range(3)] == [200, 200, 429]
    assert home.error.code == "insufficient_quota"
    assert home.status(token) == 200, "other requests do not count"
    assert home.status(token, "POST", "/tokenize") == 429
    day[0] += 1
    assert home.chat(token) == 200
    home.take_back()
    assert [home.status(token, "POST", path) for path in ("/tokenize", "/detokenize")] == [200] * 2
    assert home.chat(token) == 429
    home.usage.close()
    home.log.close()


def test_usage_survives_a_restart_and_is_shared_by_replicas(tmp_path: Path) -> None:
    first, second = (Usage(tmp_path / "usage.db") for _ in range(2))
    for _ in range(3):
        first.add("key-1")
    second.add("key-1")
    assert (first.used("key-1"), second.used("key-1")) == (3, 1)

    async def follow_both() -> None:
        following = [asyncio.create_task(usage.follow(0.02)) for usage in (first, second)]
        for _ in range(200):
            await asyncio.sleep(0.02)
            if first.used("key-1") == second.used("key-1") == 4:
                break
        for task in following:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(follow_both())
    assert (first.used("key-1"), second.used("key-1")) == (4, 4)
    first.add("key-1")
    first.close()
    second.close()
    again = Usage(tmp_path / "usage.db")
    assert again.used("key-1") == 5
    again.close()


def test_an_expired_key_is_refused_with_the_time(home: Home) -> None:
    expires_ms = 1_798_675_200_000  # 2026-12-31 00:00 UTC
    home.seconds = expires_ms / 1000 - 0.5
    token, other = home.make(name="anna", expires_ms=expires_ms), home.make()
    assert home.status(token) == 200, "also before it is cached as a caller"
    home.seconds = expires_ms / 1000
    assert (home.status(token), home.error.code) == (401, "expired_api_key")
    assert "expired on 2026-12-31 00:00 UTC" in home.error.message
    assert home.error.headers == {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    assert home.status(other) == 200


def test_a_ring_of_expired_keys_is_not_usable(home: Home) -> None:
    home.make(expires_ms=milliseconds_now() + 60_000)
    assert home.ring().usable
    home.make(name="old", expires_ms=1)
    revoke_key(home.log, home.ring(), next(iter(home.ring().keys)), by="test")
    assert home.ring().required
    assert not home.ring().usable


def test_a_rotated_key_keeps_owner_role_name_and_limits(home: Home) -> None:
    old = home.make(
        "annotator",
        name="anna",
        rate=60,
        quota=9,
        token_quota=8,
        byte_quota=7,
        secret=SECRET,
    )
    assert home.owner(old) == owner_of(SECRET, old), "as for keys without a stored owner"
    new = home.rotate("anna")
    assert home.status(old) == 401
    assert home.owner(new) == owner_of(SECRET, old)
    first, second = home.ring().keys.values()
    assert (second.name, second.role, second.rate, second.quota) == ("anna", "annotator", 60, 9)
    assert (second.token_quota, second.byte_quota) == (8, 7)
    assert second.account == first.id
    assert (first.rotated, second.rotated) == (True, False)
    assert home.history.snapshot().audit_entries[-1].text == "rotated the key 'anna' (annotator)"
    third = home.rotate("anna")
    assert (home.status(new), home.owner(third)) == (401, owner_of(SECRET, old))


def test_rotation_does_not_renew_the_quota_or_the_rate(home: Home) -> None:
    old = home.make(name="anna", quota=2, rate=3, secret=SECRET)
    assert home.chat(old) == 200
    new = home.rotate("anna", grace_ms=60_000)
    assert [home.chat(new), home.chat(old)] == [200, 429]
    assert home.error.code == "insufficient_quota"
    assert home.status(new) == 429
    assert home.error.code == "rate_limit_exceeded"


def test_the_old_token_is_valid_until_the_end_of_the_grace_period(home: Home) -> None:
    old = home.make(name="anna", secret=SECRET)
    new = home.rotate("anna", grace_ms=3_600_000)
    assert [home.status(old), home.status(new)] == [200, 200]
    home.seconds = time.time() + 3_601
    assert [home.status(old), home.status(new)] == [401, 200]
    assert home.error.code == "expired_api_key"
    home.seconds = time.time()
    newest = home.rotate("anna")
    tokens = (old, new, newest)
    assert [home.status(token) for token in tokens] == [401, 401, 200], "it ends all earlier ones"
    assert len(revoke_key(home.log, home.ring(), "anna", by="test")) == 1


def test_a_grace_period_does_not_extend_the_key(home: Home) -> None:
    soon = milliseconds_now() + 60_000
    home.make(name="anna", expires_ms=soon, secret=SECRET)
    home.rotate("anna", grace_ms=3_600_000)
    assert [key.expires_ms for key in home.ring().keys.values()] == [soon, soon]
    home.rotate("anna", expires_ms=0)
    assert list(home.ring().keys.values())[-1].expires_ms is None


def test_an_expired_key_is_rotated_only_with_a_new_expiry(home: Home) -> None:
    old = home.make(name="anna", expires_ms=1, secret=SECRET)
    with pytest.raises(KeyRejected, match="--expires"):
        home.rotate("anna")
    assert home.owner(home.rotate("anna", expires_ms=0)) == owner_of(SECRET, old)


def test_a_key_without_a_stored_owner_is_rotated_with_its_token(home: Home) -> None:
    old, other = home.make(name="anna"), home.make(name="bert")
    with pytest.raises(KeyRejected, match="--api-key"):
        home.rotate("anna")
    anna = home.ring().find(old)
    assert anna is not None
    with pytest.raises(KeyRejected, match="not the key 'anna'"):
        owner_from_token(anna, home.ring(), SECRET, other)
    new = home.rotate("anna", owner=owner_from_token(anna, home.ring(), SECRET, old))
    assert home.owner(new) == owner_of(SECRET, old)


def test_rotation_needs_exactly_one_key(home: Home) -> None:
    with pytest.raises(KeyRejected, match="no valid key 'anna'"):
        home.rotate("anna")
    before = home.ring()
    for _ in range(2):
        make_key(home.log, before, "user", by="test", name="anna", secret=SECRET)
    with pytest.raises(KeyRejected, match="several keys"):
        home.rotate("anna")
    first, second = home.ring().keys
    home.rotate(first)
    assert home.ring().keys[second].revoked_ms is None


def test_votes_are_limited_by_owner_unless_its_users_are_trusted(home: Home) -> None:
    token, other = home.make(name="anna", secret=SECRET), home.make(name="bert")
    assert [home.vote(token) for _ in range(4)] == [200, 200, 200, 429]
    assert home.error.code == "rate_limit_exceeded"
    assert home.error.headers == {"Retry-After": "20"}
    assert "--trusted-users" in home.error.message
    assert home.status(token) == home.chat(token) == home.vote(other) == 200
    rotated = home.rotate("anna", grace_ms=60_000)
    assert home.vote(rotated) == 429, "a rotated key has no new votes"
    home.now = 20
    assert home.vote(rotated) == 200
    for free in (home.make(trusted_users=True), home.make("operator")):
        assert {home.vote(free) for _ in range(20)} == {200}


def test_the_latest_key_of_an_owner_says_whether_its_users_are_trusted(home: Home) -> None:
    tokens = [
        home.make(name=name, role=role, trusted_users=trusted, secret=SECRET)
        for name, role, trusted in (
            ("app", "user", True),
            ("anna", "user", False),
            ("root", "operator", False),
        )
    ]
    app, anna, root = (owner_of(SECRET, token) for token in tokens)
    home.make(name="old", trusted_users=True)  # without a secret no owner is stored
    assert home.ring().trusted_owners() == {app, root}
    home.rotate("app")
    assert home.ring().trusted_owners() == {app, root}, "as the old key"
    home.rotate("app", trusted_users=False)
    home.rotate("anna", trusted_users=True)
    assert home.ring().trusted_owners() == {anna, root}
    revoke_key(home.log, home.ring(), "anna", by="test")
    assert home.ring().trusted_owners() == {root}, "votes of a revoked key are bounded"


def test_keys_that_may_be_outdated_are_refused_and_keyless_routes_answer(home: Home) -> None:
    token = home.make()
    home.outdated = True
    assert (home.status(token), home.error.code) == (503, "keys_outdated")
    assert home.error.headers == {"Retry-After": "10"}
    assert home.status("", path="/livez") == 200
    home.outdated = False
    assert home.status(token) == 200


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("localhost.example.com", False),
        ("", False),
    ],
)
def test_loopback_addresses(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
