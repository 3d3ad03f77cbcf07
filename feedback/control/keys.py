"""API keys and their roles, created and revoked by policy events, so that every replica knows them.

A key is 256 random bits, and the log stores its SHA-256. A slow password hash is not needed,
since random keys cannot be guessed. Keys do not expire, and roles are the finest permissions.
"""

import hashlib
import re
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, get_args

from feedback.control.audit import LEARNER
from feedback.control.policies import append_policy_event
from feedback.errors import FeedbackError
from feedback.log.event_log import EventLog
from feedback.log.kafka_settings import KafkaSettings
from feedback.privacy.identity import LOCAL_OWNER
from protos.plaudit.v1.policy_pb2 import KeyMade, KeyRevoked

Role = Literal["user", "annotator", "operator"]

# Each role includes the permissions of those before it.
ROLES: Final[tuple[Role, ...]] = get_args(Role)
_PREFIX: Final = "plk-"
_NAME: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}")
# Other names in the audit trail.
_RESERVED_NAMES: Final = frozenset({LEARNER, "setup", LOCAL_OWNER})


class KeyRejected(FeedbackError):
    """A key cannot be created or revoked; the message says why."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request.

    Attributes:
        owner: Owner of the sender's completions and feedback (`identity.owner_of`).
        role: Role of the sender's key.
        name: Name of the sender's key, for the audit trail.

    """

    owner: str
    role: Role
    name: str

    def may(self, role: Role) -> bool:
        """Return whether the caller has the permissions of `role`."""
        return ROLES.index(self.role) >= ROLES.index(role)


@dataclass(frozen=True, slots=True)
class Key:
    """An API key, without its token.

    Attributes:
        id: Id of the key, `key-` and 8 hex digits.
        name: Name for people.
        role: Role of callers that use it.
        rate: Requests allowed per minute; 0 for no limit.
        quota: Completions allowed per day, UTC; 0 for no limit.
        made_ms: Time of creation in milliseconds since the epoch.
        revoked_ms: Time of revocation in milliseconds since the epoch; None if it is valid.

    """

    id: str
    name: str
    role: Role
    rate: float
    quota: int
    made_ms: int
    revoked_ms: int | None = None


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys as of some policy event.

    Attributes:
        keys: Keys by id, in order of creation.

    """

    keys: Mapping[str, Key] = field(default_factory=dict)
    _valid: Mapping[bytes, Key] = field(default_factory=dict)

    @property
    def required(self) -> bool:
        """Whether callers need a key: once any was created, even if all are revoked."""
        return bool(self.keys)

    @property
    def usable(self) -> bool:
        """Whether there is a valid key."""
        return bool(self._valid)

    def find(self, token: str) -> Key | None:
        """Return the valid key with this token; None if there is none."""
        return self._valid.get(_digest(token))

    def add_key(self, made: KeyMade, made_ms: int) -> "KeyRing":
        """Return the ring with one more key; a key with an unknown role is not valid."""
        role = next((role for role in ROLES if role == made.role), None)
        if made.id in self.keys:
            return self
        key = Key(made.id, made.name, role or "user", made.rate, made.quota, made_ms)
        valid = self._valid if role is None else {**self._valid, made.digest: key}
        return KeyRing({**self.keys, made.id: key}, valid)

    def revoke(self, revoked: KeyRevoked, revoked_ms: int) -> "KeyRing":
        """Return the ring with one key revoked; it stays listed."""
        key = self.keys.get(revoked.id)
        if key is None or key.revoked_ms is not None:
            return self
        valid = {digest: k for digest, k in self._valid.items() if k.id != revoked.id}
        return KeyRing({**self.keys, key.id: replace(key, revoked_ms=revoked_ms)}, valid)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def make_key(
    log: EventLog,
    ring: KeyRing,
    role: Role,
    *,
    by: str,
    name: str | None = None,
    rate: float = 0,
    quota: int = 0,
) -> tuple[str, str]:
    """Create a key; return its name and its token, which cannot be read again.

    Args:
        log: Log to append the policy event to.
        ring: Existing keys.
        role: Role of the key.
        by: Name of the person who creates it.
        name: Name of the key; None uses its id.
        rate: Requests allowed per minute; 0 for no limit.
        quota: Completions allowed per day, UTC; 0 for no limit.

    Raises:
        KeyRejected: The name is invalid or reserved, or a valid key has it.
        LogUnavailable: The key may or may not exist; create another.

    """
    key_id = f"key-{secrets.token_hex(4)}"
    name = key_id if name is None else name
    if not _NAME.fullmatch(name) or name.lower() in _RESERVED_NAMES:
        raise KeyRejected(
            f"a key cannot be named {name!r}: a name has 1 to 64 characters of A-Z, a-z, 0-9 and "
            f"._@-, and is none of {', '.join(sorted(_RESERVED_NAMES))}"
        )
    if any(name in (key.name, key.id) for key in ring.keys.values() if key.revoked_ms is None):
        raise KeyRejected(f"a key '{name}' exists already; revoke it, or choose another name")
    token = _PREFIX + secrets.token_urlsafe(32)
    made = KeyMade(id=key_id, name=name, role=role, rate=rate, quota=quota, by=by)
    made.digest = _digest(token)
    append_policy_event(log, made)
    return name, token


def revoke_key(log: EventLog, ring: KeyRing, name_or_id: str, *, by: str) -> list[Key]:
    """Revoke all valid keys with a name or id for good; return them.

    Two keys can have the same name if they were created at the same moment.

    Raises:
        KeyRejected: There is no valid key with that name or id.
        LogUnavailable: Some may not be revoked; revoke again.

    """
    valid = (key for key in ring.keys.values() if key.revoked_ms is None)
    found = [key for key in valid if name_or_id in (key.id, key.name)]
    if not found:
        raise KeyRejected(f"there is no valid key '{name_or_id}'; see 'plaudit keys list'")
    for key in found:
        append_policy_event(log, KeyRevoked(id=key.id, name=key.name, by=by))
    return found


def key_create_command(home: Path | None) -> str:
    """Return the command that creates an operator's key for this installation.

    Args:
        home: Home folder; None if it is not known.

    """
    arguments = {"--home": home and str(home.absolute()), "--kafka": KafkaSettings().servers}
    options = [word for name, value in arguments.items() if value for word in (name, value)]
    return shlex.join(["plaudit", "keys", "create", "--role", "operator", *options])


def no_valid_key_message(ring: KeyRing, host: str, home: Path | None) -> str:
    """Return a message that `host` is public but no key is valid; its second line is advice."""
    if ring.required:
        problem = "every API key is revoked, so nobody could use it"
    else:
        problem = "there is no API key yet, so anybody could do everything"
    advice = f"use --host 127.0.0.1, or create a key: {key_create_command(home)}"
    return f"{host} can be reached from other machines, and {problem}\n{advice}"
