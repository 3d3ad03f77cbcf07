"""API keys and their roles, created and revoked by policy events, so that every replica knows them.

A key is 256 random bits, and the log stores its SHA-256. A slow password hash is not needed,
since random keys cannot be guessed. Roles are the finest permissions.

A key may expire, and may be rotated: another key then takes over its owner, role and limits. The
owner is stored with the key, so that it outlives the token. Keys of earlier versions have none
stored; theirs is the HMAC of the token.
"""

import hashlib
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, get_args

from feedback.log.kafka_settings import KafkaSettings
from feedback.privacy.identity import Secret, owner_of
from protos.plaudit.v1.policy_pb2 import KeyMade, KeyRevoked

Role = Literal["user", "annotator", "operator"]

# What a key uses up each day.
UsageKind = Literal["requests", "tokens", "bytes"]

# Each role includes the permissions of those before it.
ROLES: Final[tuple[Role, ...]] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request.

    Attributes:
        owner: Owner of the sender's completions and feedback (`key_owner`).
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
        revoked_ms: Time of revocation in milliseconds since the epoch; None if it is not revoked.
        expires_ms: Time of expiry in milliseconds since the epoch; None for never.
        owner: Owner of what is sent with the key; empty if it is derived from the token.
        account: Id of the first key of this owner; usage is counted by it.
        rotated: Whether another key has taken over its owner.
        trusted_users: Whether its users are real people, so that the votes of all count in full.
        token_quota: Tokens that requests may ask for per day, UTC; 0 for no limit.
        byte_quota: Bytes that requests may send per day, UTC; 0 for no limit.

    """

    id: str
    name: str
    role: Role
    rate: float
    quota: int
    made_ms: int
    revoked_ms: int | None = None
    expires_ms: int | None = None
    owner: str = ""
    account: str = ""
    rotated: bool = False
    trusted_users: bool = False
    token_quota: int = 0
    byte_quota: int = 0

    def quota_of(self, kind: UsageKind) -> int:
        """Return the quota of one kind of usage; 0 for none."""
        return {"requests": self.quota, "tokens": self.token_quota, "bytes": self.byte_quota}[kind]

    @property
    def bounded(self) -> bool:
        """Whether the votes of its owner are bounded; those of an operator are not."""
        return not (self.trusted_users or self.role == "operator")

    def has_expired(self, now_ms: int) -> bool:
        """Return whether the key has expired at a time in milliseconds since the epoch."""
        return self.expires_ms is not None and now_ms >= self.expires_ms


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys as of some policy event.

    Attributes:
        keys: Keys by id, in order of creation.

    """

    keys: Mapping[str, Key] = field(default_factory=dict)
    _ids: Mapping[bytes, str] = field(default_factory=dict)  # by digest, of known roles

    @property
    def required(self) -> bool:
        """Whether callers need a key: once any was created, even if all are revoked."""
        return bool(self.keys)

    @property
    def usable(self) -> bool:
        """Whether there is a key that is neither revoked nor expired."""
        keys, now_ms = (self.keys[key_id] for key_id in self._ids.values()), milliseconds_now()
        return any(key.revoked_ms is None and not key.has_expired(now_ms) for key in keys)

    def find(self, token: str) -> Key | None:
        """Return the key with this token unless it is revoked; the caller checks its expiry."""
        key = self.find_any(token)
        return None if key is None or key.revoked_ms is not None else key

    def find_any(self, token: str) -> Key | None:
        """Return the key with this token, even if it is revoked; None if there is none."""
        key_id = self._ids.get(token_digest(token))
        return None if key_id is None else self.keys[key_id]

    def trusted_owners(self) -> frozenset[str]:
        """Return the owners whose users' votes all count in full.

        The latest key of an owner decides, unless it is revoked. An owner that is not stored with
        its key cannot be known here, and is not trusted.
        """
        latest = {key.owner: key for key in self.keys.values() if key.owner}
        return frozenset(
            owner
            for owner, key in latest.items()
            if key.revoked_ms is None and not key.bounded and key.id in self._ids.values()
        )

    def add_key(self, made: KeyMade, made_ms: int) -> "KeyRing":
        """Return the ring with one more key, which ends those that it replaces.

        A key with an unknown role is not valid.
        """
        role = next((role for role in ROLES if role == made.role), None)
        if made.id in self.keys:
            return self
        replaced = self.keys.get(made.replaces)
        key = Key(
            made.id,
            made.name,
            role or "user",
            made.rate,
            made.quota,
            made_ms,
            expires_ms=made.expires_ms or None,
            owner=made.owner,
            account=made.id if replaced is None else replaced.account,
            trusted_users=made.trusted_users,
            token_quota=made.token_quota,
            byte_quota=made.byte_quota,
        )
        ids = self._ids if role is None else {**self._ids, made.digest: made.id}
        older = {
            old.id: _ended(old, made_ms, made.grace_ms)
            for old in (self.keys.values() if replaced is not None else ())
            if old.account == key.account and old.revoked_ms is None
        }
        return KeyRing({**self.keys, **older, made.id: key}, ids)

    def revoke(self, revoked: KeyRevoked, revoked_ms: int) -> "KeyRing":
        """Return the ring with one key revoked; it stays listed."""
        key = self.keys.get(revoked.id)
        if key is None or key.revoked_ms is not None:
            return self
        return KeyRing({**self.keys, key.id: replace(key, revoked_ms=revoked_ms)}, self._ids)


def milliseconds_now() -> int:
    """Return the current time in milliseconds since the epoch."""
    return int(time.time() * 1000)


def utc_text(time_ms: int) -> str:
    """Return a time in milliseconds since the epoch as text, to the minute."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _ended(key: Key, now_ms: int, grace_ms: int) -> Key:
    """Return a rotated key, which expires after the grace period or is revoked without one."""
    if grace_ms <= 0:
        return replace(key, rotated=True, revoked_ms=now_ms)
    end_ms = now_ms + grace_ms
    expires_ms = end_ms if key.expires_ms is None else min(key.expires_ms, end_ms)
    return replace(key, rotated=True, expires_ms=expires_ms)


def token_digest(token: str) -> bytes:
    """Return what the log stores of a token: its SHA-256."""
    return hashlib.sha256(token.encode()).digest()


def key_owner(key: Key | None, secret: Secret, token: str) -> str:
    """Return the owner of what is sent with a token, whose key may be unknown."""
    return (key.owner if key is not None else "") or owner_of(secret, token)


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
        problem = "every API key is revoked or has expired, so nobody could use it"
    else:
        problem = "there is no API key yet, so anybody could do everything"
    advice = f"use --host 127.0.0.1, or create a key: {key_create_command(home)}"
    return f"{host} can be reached from other machines, and {problem}\n{advice}"
