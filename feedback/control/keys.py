"""API keys and their roles: made and revoked by policy events, so that every replica knows them.

A key is 256 random bits, and the log holds its SHA-256. That is enough: what makes a password's
hash slow to compute is that passwords can be guessed, and these cannot.

Left out: keys that expire by themselves, and rights finer than a role.
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

# Each may do what those before it may.
ROLES: Final[tuple[Role, ...]] = get_args(Role)
_PREFIX: Final = "plk-"
_NAME: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}")
# Who else stands in the audit trail.
_RESERVED_NAMES: Final = frozenset({LEARNER, "setup", LOCAL_OWNER})


class KeyRejected(FeedbackError):
    """A key cannot be made or revoked; the message says why."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a request comes from.

    Attributes:
        owner: Whose completions and feedback are theirs (`identity.owner_of`).
        name: Of their key, for the audit trail.

    """

    owner: str
    role: Role
    name: str

    def may(self, role: Role) -> bool:
        """Tell whether they may do what `role` may."""
        return ROLES.index(self.role) >= ROLES.index(role)


@dataclass(frozen=True, slots=True)
class Key:
    """An API key, without what opens the door.

    Attributes:
        rate: Requests a minute; 0 for no limit.
        quota: Completions a day, UTC; 0 for no limit.
        made_ms, revoked_ms: Milliseconds since the epoch; None: it is valid.

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
        keys: By id, in the order they were made.

    """

    keys: Mapping[str, Key] = field(default_factory=dict)
    _valid: Mapping[bytes, Key] = field(default_factory=dict)

    @property
    def required(self) -> bool:
        """Whether callers need one: as soon as one was ever made, also if all are revoked."""
        return bool(self.keys)

    @property
    def usable(self) -> bool:
        """Whether there is one that is not revoked."""
        return bool(self._valid)

    def find(self, token: str) -> Key | None:
        """Return the valid key that a caller's token is; None if it is none."""
        return self._valid.get(_digest(token))

    def add_key(self, made: KeyMade, made_ms: int) -> "KeyRing":
        """Return the ring with one more key; one of a role unknown here opens nothing."""
        role = next((role for role in ROLES if role == made.role), None)
        if made.id in self.keys:
            return self
        key = Key(made.id, made.name, role or "user", made.rate, made.quota, made_ms)
        valid = self._valid if role is None else {**self._valid, made.digest: key}
        return KeyRing({**self.keys, made.id: key}, valid)

    def revoke(self, revoked: KeyRevoked, revoked_ms: int) -> "KeyRing":
        """Return the ring without one key; it stays listed."""
        key = self.keys.get(revoked.id)
        if key is None or key.revoked_ms is not None:
            return self
        valid = {digest: one for digest, one in self._valid.items() if one.id != revoked.id}
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
    """Make a key; give its name and the token, which is told this once.

    Args:
        ring: The keys so far.
        by: Who makes it.
        name: Of the key; None makes one up.

    Raises:
        KeyRefused: A valid key has that name, or no key may have it.
        LogUnavailable: It may or may not be made; make another.

    """
    key_id = f"key-{secrets.token_hex(4)}"
    name = key_id if name is None else name
    if not _NAME.fullmatch(name) or name.lower() in _RESERVED_NAMES:
        raise KeyRejected(
            f"a key cannot be named {name!r}: a name is 1 to 64 of A-Z, a-z, 0-9 and ._@-, and "
            f"none of {', '.join(sorted(_RESERVED_NAMES))}"
        )
    if any(name in (key.name, key.id) for key in ring.keys.values() if key.revoked_ms is None):
        raise KeyRejected(f"there is a key '{name}' already; revoke it, or choose another name")
    token = _PREFIX + secrets.token_urlsafe(32)
    made = KeyMade(id=key_id, name=name, role=role, rate=rate, quota=quota, by=by)
    made.digest = _digest(token)
    append_policy_event(log, made)
    return name, token


def revoke_key(log: EventLog, ring: KeyRing, name_or_id: str, *, by: str) -> list[Key]:
    """Revoke all valid keys of a name or id for good, everywhere; give them.

    Two of one name can be made where both are asked for at the same moment.

    Raises:
        KeyRefused: There is none of that name or id.
        LogUnavailable: Some may be revoked and others not; revoke again.

    """
    valid = (key for key in ring.keys.values() if key.revoked_ms is None)
    found = [key for key in valid if name_or_id in (key.id, key.name)]
    if not found:
        raise KeyRejected(f"there is no valid key '{name_or_id}'; see 'plaudit keys list'")
    for key in found:
        append_policy_event(log, KeyRevoked(id=key.id, name=key.name, by=by))
    return found


def key_create_command(home: Path | None) -> str:
    """Return the command that makes an operator's key for the installation of this process.

    Args:
        home: Its folder; None where it is not known.

    """
    given = {"--home": home and str(home.absolute()), "--kafka": KafkaSettings().servers}
    options = [word for name, value in given.items() if value for word in (name, value)]
    return shlex.join(["plaudit", "keys", "create", "--role", "operator", *options])


def no_valid_key_message(ring: KeyRing, host: str, home: Path | None) -> str:
    """Say that others reach `host` and no key is valid, and on a second line what to do."""
    if ring.required:
        lack = "every API key is revoked: nobody could do anything"
    else:
        lack = "there is no API key yet, without which everybody may do everything"
    advice = f"use --host 127.0.0.1, or make a key: {key_create_command(home)}"
    return f"{host} can be reached from other machines, and {lack}\n{advice}"
