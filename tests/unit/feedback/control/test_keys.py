"""API keys: creation, lookup, revocation; rate limits and daily quotas."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from feedback.api.http_errors import ApiError
from feedback.control.history import History
from feedback.control.keys import KeyRejected, KeyRing, Role, make_key, revoke_key
from feedback.control.policies import append_policy_event
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.identity import Secret
from protos.plaudit.v1.policy_pb2 import KeyMade
from serving.http.access import Access, is_loopback
from serving.http.usage import Usage

SECRET = Secret("00000001", {"00000001": b"k" * 32}, b"i" * 32)


class Home:
    """A log with keys, and a replica that checks them."""

    def __init__(self, folder: Path) -> None:
        self.log = SqliteLog(folder / "log.db")
        self.history = History(self.log)
        self.now = 0.0
        self.usage = Usage(folder / "usage.db")
        self.access = Access(SECRET, self.ring, self.usage, clock=lambda: self.now)

    def ring(self) -> KeyRing:
        self.history.poll()
        return self.history.keys

    def make(self, role: Role = "user", **more: object) -> str:
        return make_key(self.log, self.ring(), role, by="test", **more)[1]  # type: ignore[arg-type]

    def status(self, token: str, method: str = "GET", path: str = "/v1/models") -> int:
        headers = [(b"authorization", f"Bearer {token}".encode())]
        try:
            self.access.admit({"type": "http", "method": method, "path": path, "headers": headers})
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
    assert [home.ring()._valid[d].name for d in home.ring()._valid] != ["x"]
    assert len(home.ring()._valid) == 1
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
    day[0] += 1
    assert home.chat(token) == 200
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
