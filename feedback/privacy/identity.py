"""Who says what about which answer: owners, subjects, completion ids and event ids.

A completion id certifies itself: any replica that has the installation's secret can tell
that this service made it, for this owner, with so many choices, and until when it may be
voted on. Left out: revoking a single id.
"""

import contextlib
import functools
import hmac
import json
import re
import secrets
import struct
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from feedback.errors import FeedbackError
from protos.checkpoints.durable import create_file

LIFETIME_SECONDS: Final = 30 * 24 * 3600
LOCAL_OWNER: Final = "local"
MAX_CHOICES: Final = 2**16 - 1

_PREFIX: Final = "chatcmpl-"
_FORMAT: Final = 1
# Big-endian: format, key id, nonce, choices, expiry (unix seconds), policy version
_PAYLOAD: Final = struct.Struct(">B4s8sHII")
_TAG_BYTES: Final = 16
_ID: Final = re.compile(
    rf"(?:{_PREFIX}|cmpl-)([A-Za-z0-9_-]{{{(_PAYLOAD.size + _TAG_BYTES) * 4 // 3}}})", re.ASCII
)


class IdentityError(FeedbackError):
    """An id or the secret behind it is not right."""


class SecretInvalid(IdentityError):
    """The secret file is unreadable; the message says how."""


class ForgedId(IdentityError):
    """Not an id that this installation gave to this owner."""


class ExpiredId(IdentityError):
    """Given to this owner, but too long ago to be voted on."""


@dataclass(frozen=True, slots=True)
class Secret:
    """The secret of an installation, shared by its replicas.

    Attributes:
        current: Id of the key that new completion ids are signed with, 8 hex digits.
        keys: Keys by id; a key that is dropped here makes the ids it signed forged.
        identity: What owners, subjects and event ids are derived from. It never rotates:
            another one would make every owner a stranger to what they own.

    """

    current: str
    keys: dict[str, bytes] = field(repr=False)
    identity: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CompletionIdClaims:
    """What a completion id certifies.

    Attributes:
        choices: How many choices the completion has; they count from 0.
        expires: Until when it may be voted on, unix seconds.
        policy_version: The policy that was live when the request came in.

    """

    choices: int
    expires: int
    policy_version: int


def load_or_create_secret(path: Path) -> Secret:
    """Read the secret file, or make one, readable by its owner alone.

    Processes that do so at once all get the same secret.

    Raises:
        SecretInvalid: The file is there, but is not a secret.

    """
    if not path.exists():
        _create_secret(path)
    try:
        stored = json.loads(path.read_text())
        keys = {key_id: bytes.fromhex(key) for key_id, key in stored["keys"].items()}
        secret = Secret(stored["current"], keys, bytes.fromhex(stored["identity"]))
        sound = secret.current in keys and all(len(bytes.fromhex(k)) == 4 for k in keys)
        sound = sound and all(len(key) >= 16 for key in (secret.identity, *keys.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SecretInvalid(f"{path} is not a secret file: {error!r}") from error
    if not sound:
        raise SecretInvalid(f"{path} lacks its current key, or has a key that is too short")
    return secret


def _create_secret(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    key_id = secrets.token_hex(4)
    content = {
        "current": key_id,
        "keys": {key_id: secrets.token_hex(32)},
        "identity": secrets.token_hex(32),
    }
    with contextlib.suppress(FileExistsError):  # another process was faster
        create_file(path, json.dumps(content).encode(), mode=0o600)


def _digest(key: bytes, purpose: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA-256 over parts that cannot run into each other or into another purpose."""
    return _hmac(key, b"".join(len(part).to_bytes(4, "big") + part for part in (purpose, *parts)))


@functools.lru_cache(maxsize=64)
def _keyed_hmac(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod="sha256")


def _hmac(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA-256; a third of the time of `hmac.digest`, and it does not let go of the GIL."""
    digest = _keyed_hmac(key).copy()
    digest.update(message)
    return digest.digest()


def _text(digest: bytes) -> str:
    return urlsafe_b64encode(digest[:18]).decode()


def owner_of(secret: Secret, api_key: str | None) -> str:
    """Return the owner behind an API key, 24 characters; 'local' where no key is required."""
    if api_key is None:
        return LOCAL_OWNER
    return _text(_digest(secret.identity, b"owner", api_key.encode()))


def subject_of(secret: Secret, owner: str, user: str | None) -> str:
    """Return the pseudonym of an owner's `user`, 24 characters; '' where none is named."""
    if not user:
        return ""
    return _text(_digest(secret.identity, b"subject", owner.encode(), user.encode()))


def event_id(secret: Secret, owner: str, idempotency_key: str | None) -> str:
    """Return a feedback event's id: the same for the same owner and key, else a new one."""
    if idempotency_key is None:
        return f"fb-{_text(secrets.token_bytes(18))}"
    key = idempotency_key.encode()
    return f"fb-{_text(_digest(secret.identity, b'event', owner.encode(), key))}"


def retraction_id(secret: Secret, owner: str, retracted: str) -> str:
    """Return the id of the one event that retracts the event `retracted`."""
    digest = _digest(secret.identity, b"retraction", owner.encode(), retracted.encode())
    return f"fb-{_text(digest)}"


def _tag(key: bytes, payload: bytes, owner: str) -> bytes:
    # The payload's length is fixed, so it cannot run into the owner.
    return _hmac(key, b"completion-id" + payload + owner.encode())[:_TAG_BYTES]


def create_completion_id(
    secret: Secret, owner: str, choices: int, policy_version: int, now: float | None = None
) -> str:
    """Make a completion id, 61 characters, that may be voted on for 30 days.

    The prefix `chatcmpl-` may be replaced by `cmpl-`, OpenAI's for text completions: it is
    not certified.

    Args:
        secret: The installation's secret.
        owner: Whose completion it is; certified by the id, not readable in it.
        choices: How many choices may be voted on, 0 to 65,535.
        policy_version: The policy live now.
        now: Unix seconds.

    Raises:
        ValueError: `choices` is out of range.

    """
    if not 0 <= choices <= MAX_CHOICES:
        raise ValueError(f"choices must be 0 to {MAX_CHOICES}, not {choices}")
    expires = int(time.time() if now is None else now) + LIFETIME_SECONDS
    payload = _PAYLOAD.pack(
        _FORMAT,
        bytes.fromhex(secret.current),
        secrets.token_bytes(8),
        choices,
        expires,
        policy_version,
    )
    tag = _tag(secret.keys[secret.current], payload, owner)
    return _PREFIX + urlsafe_b64encode(payload + tag).decode()


def _parse(completion_id: str) -> tuple[bytes, bytes, str, CompletionIdClaims]:
    """Return payload, tag, key id and claims; nothing is certified by this."""
    match = _ID.fullmatch(completion_id)
    if match is None:
        raise ForgedId("not a completion id")
    raw = urlsafe_b64decode(match[1])
    payload, tag = raw[: _PAYLOAD.size], raw[_PAYLOAD.size :]
    form, key_id, _, choices, expires, version = _PAYLOAD.unpack(payload)
    if form != _FORMAT:
        raise ForgedId("a completion id of a format that this version does not know")
    return payload, tag, key_id.hex(), CompletionIdClaims(choices, expires, version)


def parse_claims(completion_id: str) -> CompletionIdClaims:
    """Read a completion id's claims without checking it: for ids that were checked before.

    Raises:
        ForgedId: It has not the form of a completion id.

    """
    return _parse(completion_id)[3]


def verify_owner(secret: Secret, completion_id: str, owner: str) -> CompletionIdClaims:
    """Check that an id was given to this owner, however long ago.

    Raises:
        ForgedId: It was not: it is made up, altered, somebody else's, or its key is gone.

    """
    payload, tag, key_id, claims = _parse(completion_id)
    key = secret.keys.get(key_id)
    if key is None or not hmac.compare_digest(tag, _tag(key, payload, owner)):
        raise ForgedId("not a completion id of this owner")
    return claims


def check(
    secret: Secret, completion_id: str, owner: str, now: float | None = None
) -> CompletionIdClaims:
    """Check that an id was given to this owner and may still be voted on.

    Raises:
        ForgedId: It was not given to this owner.
        ExpiredId: It was, more than 30 days ago.

    """
    claims = verify_owner(secret, completion_id, owner)
    if (time.time() if now is None else now) >= claims.expires:
        raise ExpiredId("the completion is too old to be voted on")
    return claims
