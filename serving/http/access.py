"""Who may do what: from the key in a request to its caller, or to a refusal.

The table of routes says which role each needs; what it does not name needs an operator. Without
keys everybody is one, so a server without keys belongs on a loopback address, and asks of what
only operators may do that it does not come from another web site's page.
"""

import ipaddress
import re
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from feedback.control.keys import Caller, Key, KeyRing, Role
from feedback.privacy.identity import LOCAL_OWNER, Secret, owner_of
from serving.errors import RequestError
from serving.http.usage import Usage

_READ: Final = ("GET", "HEAD")
# What a proxy adds; whoever comes through one is not known to be of this machine.
_PROXY_HEADERS: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
COMPLETIONS: Final = frozenset({"/v1/chat/completions", "/v1/completions"})
# Methods, path, and the role that it takes; None: no key at all. The first that fits counts.
ROUTES: Final[tuple[tuple[tuple[str, ...], re.Pattern[str], Role | None], ...]] = (
    (("OPTIONS",), re.compile(r".*"), None),  # browsers ask so before they send a key
    (_READ, re.compile(r"/(livez|readyz|health|metrics)/?"), None),
    (_READ, re.compile(r"/|/page(/.*)?"), None),
    (_READ, re.compile(r"/v1/(me|models)"), "user"),
    (("POST",), re.compile(r"/v1/(chat/)?completions"), "user"),
    (("POST",), re.compile(r"/(de)?tokenize"), "user"),
    (("GET", "POST"), re.compile(r"/v1/feedback"), "user"),
    (("GET", "DELETE"), re.compile(r"/v1/feedback/[^/]+"), "user"),
    (_READ, re.compile(r"/v1/learning(/events)?"), "user"),
    (_READ, re.compile(r"/v1/learning/reports/[^/]+(/chart\.svg)?"), "user"),
)


def role_for(method: str, path: str) -> Role | None:
    """Return the role that a request takes; None where it takes no key."""
    for methods, pattern, role in ROUTES:
        if method in methods and pattern.fullmatch(path):
            return role
    return "operator"


def is_loopback(host: str) -> bool:
    """Tell whether a host's name or address is one that only this machine can reach."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def bearer_of(headers: Headers) -> str:
    """Return the token that a request carries; empty for none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


class _TokenBucket:
    """A token bucket: a minute's worth at once, then as many as flow in."""

    __slots__ = ("_at", "_left")

    def __init__(self, rate: float, now: float) -> None:
        self._left, self._at = max(1.0, rate), now

    def wait(self, rate: float, now: float) -> float:
        """Take one; give 0, or the seconds after which there is one."""
        self._left = min(max(1.0, rate), self._left + (now - self._at) * rate / 60)
        self._at = now
        if self._left < 1:
            return (1 - self._left) * 60 / rate
        self._left -= 1
        return 0.0


class Access:
    """Lets requests in. For the event loop; asks no disk."""

    def __init__(
        self,
        secret: Secret,
        keys: Callable[[], KeyRing],
        usage: Usage,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Let in by the keys as they are at each request; `clock` gives seconds."""
        self._secret = secret
        self._keys = keys
        self._usage = usage
        self._clock = clock
        self._buckets: dict[str, _TokenBucket] = {}  # by key id
        self._callers: dict[str, Caller] = {}

    def admit(self, scope: Scope) -> Caller:
        """Return the caller of an HTTP request.

        Raises:
            BadRequest: 401 no valid key, 403 not for this role, 429 over the key's limits.

        """
        method, path = scope["method"], scope["path"]
        wanted = role_for(method, path)
        keys = self._keys()
        if wanted is None or not keys.required:
            if wanted == "operator" and _is_foreign_request(Headers(scope=scope)):
                raise _keys_needed_error()
            return Caller(LOCAL_OWNER, "operator" if wanted else "user", LOCAL_OWNER)
        token = bearer_of(Headers(scope=scope))
        key = keys.find(token)
        if key is None:
            raise _invalid_key_error()
        caller = self._callers.get(key.id)
        if caller is None:  # one key has one token, so this is so for good
            caller = Caller(owner_of(self._secret, token), key.role, key.name)
            self._callers[key.id] = caller
        if not caller.may(wanted):
            raise _role_error(key.role)
        self._limit(key, method == "POST" and path in COMPLETIONS)
        return caller

    def _limit(self, key: Key, completion: bool) -> None:
        if key.rate:
            now = self._clock()
            bucket = self._buckets.get(key.id) or _TokenBucket(key.rate, now)
            self._buckets[key.id] = bucket
            if wait := bucket.wait(key.rate, now):
                raise _rate_limit_error(key, wait)
        if key.quota and completion:
            if self._usage.used(key.id) >= key.quota:
                raise _quota_error(key)
            self._usage.add(key.id)


def _is_foreign_request(headers: Headers) -> bool:
    """Tell another web site's page, one that used another name of this server, and a proxy."""
    if any(name in headers for name in _PROXY_HEADERS):
        return True
    host = headers.get("host", "")
    origin = headers.get("origin")
    name = urlsplit(f"//{host}").hostname or ""
    return not is_loopback(name) or (origin is not None and urlsplit(origin).netloc != host)


def _invalid_key_error() -> RequestError:
    message = "This server needs a valid API key: send it as 'Authorization: Bearer KEY'."
    return RequestError(401, message, None, "invalid_api_key", {"WWW-Authenticate": "Bearer"})


def _role_error(role: Role) -> RequestError:
    message = f"A key of role '{role}' may not do this: use an operator's."
    return RequestError(403, message, None, "role_not_allowed")


def _keys_needed_error() -> RequestError:
    message = (
        "Without API keys, operators' requests are taken from this machine's own pages and "
        "programs alone. Make a key: plaudit keys create --role operator."
    )
    return RequestError(403, message, None, "keys_needed")


def _rate_limit_error(key: Key, wait: float) -> RequestError:
    message = f"This key may send {key.rate:g} requests a minute. Try again in {wait:.0f} s."
    headers = {"Retry-After": str(max(1, -int(-wait // 1)))}
    return RequestError(429, message, None, "rate_limit_exceeded", headers)


def _quota_error(key: Key) -> RequestError:
    message = f"This key may ask for {key.quota} completions a day, and has. Try again tomorrow."
    return RequestError(429, message, None, "insufficient_quota")
