"""Authorisation: find the caller of a request by its API key, or refuse the request.

`ROUTES` lists the role that each route requires; any other route requires an operator. Without
keys every caller has the role that a setting names, so a server without keys must listen on a
loopback address. On every route it refuses what another site's page could have sent, and what came
through a proxy never counts as more than a user's.
"""

import functools
import ipaddress
import re
import time
from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from feedback.api.http_errors import ApiError
from feedback.control.keys import Caller, Key, KeyRing, Role, UsageKind, key_owner, utc_text
from feedback.privacy.identity import LOCAL_OWNER, Secret
from serving.http.quotas import Cost, Quotas
from serving.http.usage import Usage

_READ: Final = ("GET", "HEAD")
_OUTDATED_RETRY_SECONDS: Final = 10
MAX_PATH: Final = 1024
# Added by proxies. A request through one cannot be known to come from this machine.
_PROXY_HEADERS: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
COMPLETIONS: Final = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})
# Requests that count towards a key's quota.
METERED: Final = COMPLETIONS | {"/tokenize", "/detokenize"}
_VOTES: Final = "/v1/feedback"
# Methods, path and required role (None: no key required). The first match counts.
ROUTES: Final[tuple[tuple[tuple[str, ...], re.Pattern[str], Role | None], ...]] = (
    (("OPTIONS",), re.compile(r".*"), None),  # browsers send preflight requests without a key
    (_READ, re.compile(r"/(livez|readyz|health|metrics)/?"), None),
    (_READ, re.compile(r"/|/page(/.*)?|/docs|/openapi\.json"), None),
    (_READ, re.compile(r"/v1/(me|models(/.+)?)"), "user"),
    (("POST",), re.compile(r"/v1/((chat/)?completions|responses)"), "user"),
    (("POST",), re.compile(r"/(de)?tokenize"), "user"),
    (("GET", "POST"), re.compile(r"/v1/feedback"), "user"),
    (("GET", "DELETE"), re.compile(r"/v1/feedback/[^/]+"), "user"),
    (_READ, re.compile(r"/v1/learning(/events)?"), "user"),
    (_READ, re.compile(r"/v1/learning/reports/[^/]+(/chart\.svg)?"), "user"),
)


def role_for(method: str, path: str) -> Role | None:
    """Return the role that a request requires, or None if it requires no key."""
    for methods, pattern, role in ROUTES:
        if method in methods and pattern.fullmatch(path):
            return role
    return "operator"


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host name or address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_target(scope: Scope) -> None:
    """Refuse a request whose `Host` or path cannot be read, which later code relies on.

    Raises:
        ApiError: 400, the host is not one; 414, the path is too long.

    """
    if len(scope["path"]) > MAX_PATH:
        raise ApiError(414, "path_too_long", f"The path has more than {MAX_PATH} characters.")
    if not _is_host(Headers(scope=scope).get("host", "")):
        message = "The header 'Host' must be a host name or an address, with or without a port."
        raise ApiError(400, "invalid_host", message, "Host")


def _is_host(host: str) -> bool:
    try:
        parts = urlsplit(f"//{host}")
        return parts.netloc == host and "@" not in host and (not host or bool(parts.hostname))
    except ValueError:  # such as an unclosed bracket
        return False


def bearer_token(headers: Headers) -> str:
    """Return the bearer token of a request, or an empty string."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


class _TokenBucket:
    """A token bucket that holds a minute's worth of requests."""

    __slots__ = ("_left", "_updated")

    def __init__(self, rate: float, now: float) -> None:
        self._left, self._updated = max(1.0, rate), now

    def wait(self, rate: float, now: float) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        self._left = min(max(1.0, rate), self._left + (now - self._updated) * rate / 60)
        self._updated = now
        if self._left < 1:
            return (1 - self._left) * 60 / rate
        self._left -= 1
        return 0.0


class Access:
    """Admits or refuses requests. Used on the event loop: never waits for a disk."""

    def __init__(
        self,
        secret: Secret,
        keys: Callable[[], KeyRing],
        usage: Usage,
        clock: Callable[[], float] = time.monotonic,
        *,
        local_role: Role = "user",
        closed: Collection[str] = (),
        vote_rate: float = 0,
        outdated: Callable[[], bool] = lambda: False,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Initialise without any usage of rate limits.

        Args:
            secret: The installation's secret.
            keys: Returns the current keys.
            usage: What keys have used, by day.
            clock: Returns a time in seconds, for rate limits.
            local_role: Role of callers while there are no keys.
            closed: Paths that need an operator's key, although `ROUTES` says otherwise.
            vote_rate: Votes allowed per minute and owner, of keys whose users are not trusted; 0
                for no limit.
            outdated: Returns whether the keys may lack revocations, because the log could not be
                read for too long.
            wall_clock: Returns the time in Unix seconds, for expiry.

        """
        self._secret = secret
        self._local_role: Role = local_role
        self._closed = frozenset(closed)
        self._vote_rate = vote_rate
        self._outdated = outdated
        self._wall_clock = wall_clock
        self._keys = keys
        self._quotas = Quotas(usage)
        self._clock = clock
        self._buckets: dict[str, _TokenBucket] = {}  # by account
        self._callers: dict[str, Caller] = {}

    def admit(self, scope: Scope) -> Caller:
        """Return the caller of an HTTP request.

        Raises:
            ApiError: 401 no valid key, 403 role not allowed, 415 not JSON, 429 over the key's
                limits, 503 keys outdated.

        """
        method, path = scope["method"], scope["path"]
        closed = path.rstrip("/") in self._closed
        required_role = "operator" if closed else role_for(method, path)
        keys = self._keys()
        if not keys.required:
            return self._admit_local(Headers(scope=scope), method, required_role)
        if required_role is None:
            return Caller(LOCAL_OWNER, "user", LOCAL_OWNER)
        if self._outdated():
            raise outdated_keys_error()
        token = bearer_token(Headers(scope=scope))
        key = keys.find(token)
        if key is None:
            raise _invalid_key_error()
        if key.expires_ms is not None and key.has_expired(int(self._wall_clock() * 1000)):
            raise _expired_key_error(key.expires_ms)
        caller = self._callers.get(key.id)
        if caller is None:  # a key has one token, so this never changes
            caller = Caller(key_owner(key, self._secret, token), key.role, key.name)
            self._callers[key.id] = caller
        if not caller.may(required_role):
            raise _role_error(key.role)
        if method == "POST" and path == _VOTES:
            self._limit_votes(key)
        if key.rate and (wait := self._wait(key.account, key.rate)):
            raise _rate_limit_error(key, wait)
        if method == "POST":  # before its body is read
            self._quotas.check(key, Cost(int(path in METERED), int(path in COMPLETIONS), bytes=1))
        return caller

    def spend(self, scope: Scope, cost: Cost) -> Callable[[], None]:
        """Count what an admitted request uses; return what takes it back.

        Raises:
            ApiError: 429, it would exceed a quota of its key; nothing is counted.

        """
        key = self._key(scope)
        if key is None:
            return lambda: None
        self._quotas.check(key, cost)
        self._quotas.add(key, cost)
        negative = Cost(-cost.requests, -cost.tokens, -cost.bytes)
        return functools.partial(self._quotas.add, key, negative)

    def adder(self, scope: Scope, kind: UsageKind) -> Callable[[int], None]:
        """Return a function that counts more of what an admitted request uses."""
        key = self._key(scope)
        if key is None or not key.quota_of(kind):
            return lambda _: None
        return lambda amount: self._quotas.add(key, Cost(**{kind: amount}))

    def _key(self, scope: Scope) -> Key | None:
        """Return the key of an admitted request; None where none is required."""
        keys = self._keys()
        return keys.find(bearer_token(Headers(scope=scope))) if keys.required else None

    def _admit_local(self, headers: Headers, method: str, required_role: Role | None) -> Caller:
        """Return the caller of a request while there are no keys."""
        if not _is_local(headers):
            raise _keys_needed_error()
        if method not in (*_READ, "OPTIONS") and not _is_json(headers):
            raise _content_type_error()
        forwarded = any(name in headers for name in _PROXY_HEADERS)
        caller = Caller(LOCAL_OWNER, "user" if forwarded else self._local_role, LOCAL_OWNER)
        if required_role is not None and not caller.may(required_role):
            raise _keys_needed_error() if forwarded else _local_role_error(self._local_role)
        return caller

    def _limit_votes(self, key: Key) -> None:
        rate = self._vote_rate
        if rate and key.bounded and (wait := self._wait(f"votes of {key.account}", rate)):
            raise _vote_limit_error(rate, wait)

    def _wait(self, account: str, rate: float) -> float:
        """Take a token of an account and return 0, or return the seconds until there is one."""
        now = self._clock()
        return self._buckets.setdefault(account, _TokenBucket(rate, now)).wait(rate, now)


def _is_local(headers: Headers) -> bool:
    """Return whether a request names a loopback host, and comes from no other site's page.

    A site may bind its own name to 127.0.0.1, and a browser then takes this server for that site;
    but the browser still sends that name as `Host`.
    """
    host = headers.get("host", "")
    name = urlsplit(f"//{host}").hostname or ""
    return is_loopback(name) and _origin_host(headers) in (None, host)


def _is_json(headers: Headers) -> bool:
    """Return whether a body is declared as JSON, or absent.

    Pages may send other types to any site without asking, some browsers without `Origin`.
    """
    empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return empty or kind == "application/json"


def _origin_host(headers: Headers) -> str | None:
    """Return host and port of the page that a request comes from; None where it names none."""
    try:
        origin = headers.get("origin")
        return None if origin is None else urlsplit(origin).netloc
    except ValueError:  # not a URL, so no page of this server
        return ""


def _invalid_key_error() -> ApiError:
    message = "This server requires a valid API key: send it as 'Authorization: Bearer KEY'."
    return ApiError(401, "invalid_api_key", message, headers={"WWW-Authenticate": "Bearer"})


def _expired_key_error(expires_ms: int) -> ApiError:
    message = (
        f"This API key expired on {utc_text(expires_ms)}. Ask an operator for a new one "
        "(plaudit keys rotate)."
    )
    headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    return ApiError(401, "expired_api_key", message, headers=headers)


def outdated_keys_error() -> ApiError:
    """Return the error for requests with keys while the log has not been read for too long."""
    message = (
        "The event log has not been readable for too long, so this server cannot know whether "
        "API keys are still valid. Try again; it recovers by itself once the log is back."
    )
    headers = {"Retry-After": str(_OUTDATED_RETRY_SECONDS)}
    return ApiError(503, "keys_outdated", message, headers=headers)


def _role_error(role: Role) -> ApiError:
    message = f"A key of role '{role}' may not do this: use an operator's key."
    return ApiError(403, "role_not_allowed", message)


def _keys_needed_error() -> ApiError:
    message = (
        "While there are no API keys, requests are accepted only from pages and programs of this "
        "machine, under a name such as localhost, and from operators only without a proxy. Create "
        "a key: plaudit keys create --role operator."
    )
    return ApiError(403, "keys_needed", message)


def _local_role_error(role: Role) -> ApiError:
    message = (
        f"While there are no API keys, everybody here has the role '{role}', which may not do "
        "this. Create a key (plaudit keys create --role operator), or set "
        "PLAUDIT_SERVING_LOCAL_ROLE."
    )
    return ApiError(403, "role_not_allowed", message)


def _content_type_error() -> ApiError:
    message = "Send the body as JSON, with the header 'Content-Type: application/json'."
    return ApiError(415, "unsupported_media_type", message, "Content-Type")


def _rate_limit_error(key: Key, wait: float) -> ApiError:
    message = f"This key may send {key.rate:g} requests a minute. Try again in {wait:.0f} s."
    headers = {"Retry-After": str(max(1, -int(-wait // 1)))}
    return ApiError(429, "rate_limit_exceeded", message, headers=headers)


def _vote_limit_error(rate: float, wait: float) -> ApiError:
    message = (
        f"This key may send {rate:g} votes a minute. Try again in {wait:.0f} s. A service whose "
        "users are real people needs a key with --trusted-users; ask an operator."
    )
    headers = {"Retry-After": str(max(1, -int(-wait // 1)))}
    return ApiError(429, "rate_limit_exceeded", message, headers=headers)
