"""Create, rotate and revoke API keys."""

import re
import secrets
from typing import Final

from feedback.control.audit import LEARNER
from feedback.control.keys import Key, KeyRing, Role, key_owner, milliseconds_now, token_digest
from feedback.control.policies import append_policy_event
from feedback.errors import FeedbackError
from feedback.log.event_log import EventLog
from feedback.privacy.identity import LOCAL_OWNER, Secret, owner_of
from protos.plaudit.v1.policy_pb2 import KeyMade, KeyRevoked

_PREFIX: Final = "plk-"
_NAME: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}")
# Other names in the audit trail.
_RESERVED_NAMES: Final = frozenset({LEARNER, "setup", LOCAL_OWNER})


class KeyRejected(FeedbackError):
    """A key cannot be created, rotated or revoked; the message says why."""


def make_key(
    log: EventLog,
    ring: KeyRing,
    role: Role,
    *,
    by: str,
    name: str | None = None,
    rate: float = 0,
    quota: int = 0,
    token_quota: int = 0,
    byte_quota: int = 0,
    expires_ms: int | None = None,
    trusted_users: bool = False,
    secret: Secret | None = None,
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
        token_quota: Tokens that requests may ask for per day, UTC; 0 for no limit.
        byte_quota: Bytes that requests may send per day, UTC; 0 for no limit.
        expires_ms: Time of expiry in milliseconds since the epoch; None for never.
        trusted_users: Whether the `user`s sent with the key are real people, so that all their
            votes count in full.
        secret: The installation's secret, which the key's owner is derived with; None stores no
            owner, and the key can then only be rotated with its token.

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
        raise KeyRejected(
            f"a key '{name}' exists already; rotate it, revoke it, or choose another name"
        )
    made = KeyMade(id=key_id, name=name, role=role, rate=rate, quota=quota, by=by)
    made.token_quota, made.byte_quota = token_quota, byte_quota
    made.expires_ms, made.trusted_users = expires_ms or 0, trusted_users
    token = _new_token()
    made.owner = "" if secret is None else owner_of(secret, token)
    return name, _append(log, made, token)


def _new_token() -> str:
    return _PREFIX + secrets.token_urlsafe(32)


def _append(log: EventLog, made: KeyMade, token: str) -> str:
    made.digest = token_digest(token)
    append_policy_event(log, made)
    return token


def rotate_key(
    log: EventLog,
    ring: KeyRing,
    name_or_id: str,
    *,
    by: str,
    grace_ms: int = 0,
    expires_ms: int | None = None,
    trusted_users: bool | None = None,
    owner: str | None = None,
) -> tuple[Key, str]:
    """Create a key with the owner, name, role and limits of another, and end the other.

    Args:
        log: Log to append the policy event to.
        ring: Existing keys.
        name_or_id: Name or id of the key.
        by: Name of the person who rotates it.
        grace_ms: How long the old token stays valid, in milliseconds; 0 revokes it at once.
        expires_ms: Time of expiry in milliseconds since the epoch; None for that of the old key, 0
            for never.
        trusted_users: Whether all votes of its `user`s count in full; None for what the old key
            says.
        owner: Owner of a key that has none stored (see `owner_from_token`).

    Returns:
        The old key and the new token, which cannot be read again.

    Raises:
        KeyRejected: There is no such key, its owner is unknown, or the new one would be expired.
        LogUnavailable: The key may or may not be rotated; rotate it again.

    """
    key = find_current_key(ring, name_or_id)
    if not key.owner and not owner:
        raise KeyRejected(
            f"the owner of the key '{key.name}' is not stored, because it was created by an "
            "earlier version or without the installation's secret; give the current key with "
            "--api-key"
        )
    if expires_ms is None and key.has_expired(milliseconds_now()):
        raise KeyRejected(f"the key '{key.name}' has expired; say when the new one does: --expires")
    made = KeyMade(id=f"key-{secrets.token_hex(4)}", name=key.name, role=key.role, by=by)
    made.rate, made.quota = key.rate, key.quota
    made.token_quota, made.byte_quota = key.token_quota, key.byte_quota
    made.expires_ms = (key.expires_ms or 0) if expires_ms is None else expires_ms
    made.trusted_users = key.trusted_users if trusted_users is None else trusted_users
    made.owner = key.owner or owner or ""
    made.replaces, made.grace_ms = key.id, grace_ms
    return key, _append(log, made, _new_token())


def find_current_key(ring: KeyRing, name_or_id: str) -> Key:
    """Return the one key with this name or id that is neither revoked nor rotated.

    Raises:
        KeyRejected: There is none, or several.

    """
    current = (k for k in ring.keys.values() if k.revoked_ms is None and not k.rotated)
    found = [key for key in current if name_or_id in (key.id, key.name)]
    if not found:
        raise KeyRejected(f"there is no valid key '{name_or_id}'; see 'plaudit keys list'")
    if len(found) > 1:
        ids = ", ".join(key.id for key in found)
        raise KeyRejected(f"several keys are named '{name_or_id}'; give the id of one: {ids}")
    return found[0]


def owner_from_token(key: Key, ring: KeyRing, secret: Secret, token: str) -> str:
    """Return the owner of a key that has none stored.

    Raises:
        KeyRejected: The token is not that of this key.

    """
    if ring.find_any(token) != key:
        raise KeyRejected(f"what --api-key gives is not the key '{key.name}'; give its token")
    return key_owner(key, secret, token)


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
