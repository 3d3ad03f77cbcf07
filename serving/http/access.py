"""Authorisation: find the caller of a request by its API key, or refuse the request.

`ROUTES` lists the role that each route requires; any other route requires an operator. Without
keys every caller is an operator, so a server without keys must listen on a loopback address, and
refuses operator requests that come from another site's page or through a proxy.
"""

import ipaddress
import re
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from feedback.api.http_errors import ApiError
from feedback.control.keys import Caller, Key, KeyRing, Role, key_owner, utc_text
from feedback.privacy.identity import LOCAL_OWNER, Secret
from serving.http.usage import Usage

_READ: Final = ("GET", "HEAD")
_OUTDATED_RETRY_SECONDS: Final = 10
MAX_PATH: Final = 1024
# Added by proxies. A request through one cannot be known to come from this machine.
_PROXY_HEADERS: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
COMPLETIONS: Final = frozenset({"/v1/chat/completions", "/v1/completions"})
_VOTES: Final = "/v1/feedback"
# Methods, path and required role (None: no key required). The first match counts.
ROUTES: Final[tuple[tuple[tuple[str, ...], re.Pattern[str], Role | None], ...]] = (
    (("OPTIONS",), re.compile(r".*"), None),  # browsers send preflight requests without a key
    (_READ, re.compile(r"/(livez|readyz|health|metrics)/?"), None),
    (_READ, re.compile(r"/|/page(/.*)?|/docs|/openapi\.json"), None),
    (_READ, re.compile(r"/v1/(me|models(/.+)?)"), "user"),
    (("POST",), re.compile(r"/v1/(chat/)?completions"), "user"),
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
        vote_rate: float = 0,
        outdated: Callable[[], bool] = lambda: False,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Initialise without any usage of rate limits.

        Args:
            secret: The installation's secret.
            keys: Returns the current keys.
            usage: Completions per key and day.
            clock: Returns a time in seconds, for rate limits.
            vote_rate: Votes allowed per minute and owner, of keys whose users are not trusted; 0
                for no limit.
            outdated: Returns whether the keys may lack revocations, because the log could not be
                read for too long.
            wall_clock: Returns the time in Unix seconds, for expiry.

        """
        self._secret = secret
        self._vote_rate = vote_rate
        self._outdated = outdated
        self._wall_clock = wall_clock
        self._keys = keys
        self._usage = usage
        self._clock = clock
        self._buckets: dict[str, _TokenBucket] = {}  # by account
        self._callers: dict[str, Caller] = {}

    def admit(self, scope: Scope) -> Caller:
        """Return the caller of an HTTP request.

        Raises:
            ApiError: 401 no valid key, 403 role not allowed, 429 over the key's limits, 503 keys
                outdated.

        """
        method, path = scope["method"], scope["path"]
        required_role = role_for(method, path)
        keys = self._keys()
        if required_role is None or not keys.required:
            if required_role == "operator" and _is_foreign_request(Headers(scope=scope)):
                raise _keys_needed_error()
            return Caller(LOCAL_OWNER, "operator" if required_role else "user", LOCAL_OWNER)
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
        self._limit(key, method == "POST" and path in COMPLETIONS)
        return caller

    def _limit(self, key: Key, completion: bool) -> None:
        if key.rate and (wait := self._wait(key.account, key.rate)):
            raise _rate_limit_error(key, wait)
        if key.quota and completion:
            if self._usage.used(key.account) >= key.quota:
                raise _quota_error(key)
            self._usage.add(key.account)

    def _limit_votes(self, key: Key) -> None:
        rate = self._vote_rate
        if rate and key.bounded and (wait := self._wait(f"votes of {key.account}", rate)):
            raise _vote_limit_error(rate, wait)

    def _wait(self, account: str, rate: float) -> float:
        """Take a token of an account and return 0, or return the seconds until there is one."""
        now = self._clock()
        return self._buckets.setdefault(account, _TokenBucket(rate, now)).wait(rate, now)


def _is_foreign_request(headers: Headers) -> bool:
    """Return whether a request came through a proxy, a foreign host name or another origin."""
    if any(name in headers for name in _PROXY_HEADERS):
        return True
    host = headers.get("host", "")
    name = urlsplit(f"//{host}").hostname or ""
    return not is_loopback(name) or _origin_host(headers) not in (None, host)


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
        "While there are no API keys, operator requests are accepted only from pages and "
        "programs of this machine. Create a key: plaudit keys create --role operator."
    )
    return ApiError(403, "keys_needed", message)


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


def _quota_error(key: Key) -> ApiError:
    message = f"This key has used its {key.quota} completions of today. Try again tomorrow (UTC)."
    return ApiError(429, "insufficient_quota", message)
