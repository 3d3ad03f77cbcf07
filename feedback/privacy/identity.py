"""Owners, subjects, completion ids and event ids.

A completion id is signed: any replica with the installation's secret can check that this service
issued it, for which owner, with how many choices, and until when it accepts votes. A single id
cannot be revoked.
"""

import contextlib
import functools
import hmac
import json
import re
import secrets
import struct
import time
import unicodedata
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from feedback.errors import FeedbackError
from protos.checkpoints.durable import create_file

LIFETIME_SECONDS: Final = 30 * 24 * 3600
LOCAL_OWNER: Final = "local"
IMPORT_OWNER: Final = "import"  # of votes that an operator has imported
MAX_CHOICES: Final = 2**16 - 1

_PREFIX: Final = "chatcmpl-"
_FORMAT: Final = 1
# Big-endian: format, key id, nonce, choices, expiry (unix seconds), policy version
_PAYLOAD: Final = struct.Struct(">B4s8sHII")
_TAG_BYTES: Final = 16
_SIGNED: Final = rf"[A-Za-z0-9_-]{{{(_PAYLOAD.size + _TAG_BYTES) * 4 // 3}}}"
_ID: Final = re.compile(rf"(?:{_PREFIX}|cmpl-|resp_)({_SIGNED})", re.ASCII)


class IdentityError(FeedbackError):
    """An id or the secret is invalid."""


class SecretInvalid(IdentityError):
    """The secret file is invalid; the message says why."""


class ForgedId(IdentityError):
    """The id was not issued by this installation to this owner."""


class ExpiredId(IdentityError):
    """The id was issued to this owner too long ago to accept votes."""


@dataclass(frozen=True, slots=True)
class Secret:
    """The secret of an installation, shared by its replicas.

    Attributes:
        current: Id of the key that signs new completion ids, 8 hex digits.
        keys: Signing keys by id. Removing a key invalidates the ids that it signed.
        identity: Key that owners, subjects and event ids are derived from. It must never change:
            owners would lose access to everything they own.

    """

    current: str
    keys: dict[str, bytes] = field(repr=False)
    identity: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CompletionIdClaims:
    """The signed content of a completion id.

    Attributes:
        choices: Number of choices of the completion.
        expires: Time until which votes are accepted, in Unix seconds.
        policy_version: Version that was live when the request arrived.

    """

    choices: int
    expires: int
    policy_version: int


def load_or_create_secret(path: Path) -> Secret:
    """Read the secret file, or create one that only its owner can read.

    Processes that do so at the same time all get the same secret.

    Raises:
        SecretInvalid: The file exists but is not a valid secret.

    """
    if not path.exists():
        _create_secret(path)
    try:
        stored = json.loads(path.read_text())
        keys = {key_id: bytes.fromhex(key) for key_id, key in stored["keys"].items()}
        secret = Secret(stored["current"], keys, bytes.fromhex(stored["identity"]))
        valid = secret.current in keys and all(len(bytes.fromhex(k)) == 4 for k in keys)
        valid = valid and all(len(key) >= 16 for key in (secret.identity, *keys.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SecretInvalid(f"{path} is not a secret file: {error!r}") from error
    if not valid:
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
    """Return the HMAC-SHA-256 of a purpose and parts, each prefixed by its length."""
    return _hmac(key, b"".join(len(part).to_bytes(4, "big") + part for part in (purpose, *parts)))


@functools.lru_cache(maxsize=64)
def _keyed_hmac(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod="sha256")


def _hmac(key: bytes, message: bytes) -> bytes:
    """Return the HMAC-SHA-256, in a third of the time of `hmac.digest` and keeping the GIL."""
    digest = _keyed_hmac(key).copy()
    digest.update(message)
    return digest.digest()


def _text(digest: bytes) -> str:
    return urlsafe_b64encode(digest[:18]).decode()


def owner_of(secret: Secret, api_key: str | None) -> str:
    """Return the owner of an API key, 24 characters; 'local' if no key is required."""
    if api_key is None:
        return LOCAL_OWNER
    return _text(_digest(secret.identity, b"owner", api_key.encode()))


def subject_of(secret: Secret, owner: str, user: str | None) -> str:
    """Return the pseudonym of an owner's `user`, 24 characters; '' if none is given.

    One name has one pseudonym, however its accents are encoded.
    """
    if not user:
        return ""
    return _subject(secret, owner, unicodedata.normalize("NFC", user))


def subjects_of(secret: Secret, owner: str, user: str) -> list[str]:
    """Return every pseudonym that an owner's `user` may have, the current one first.

    Records may have been written before names were normalised, when each of the two encodings of
    an accent had a pseudonym of its own.
    """
    names = (unicodedata.normalize("NFC", user), unicodedata.normalize("NFD", user), user)
    return [_subject(secret, owner, name) for name in dict.fromkeys(names)]


def _subject(secret: Secret, owner: str, user: str) -> str:
    return _text(_digest(secret.identity, b"subject", owner.encode(), user.encode()))


def prompt_split_key(secret: Secret) -> bytes:
    """Return the key of the split of prompts into those to learn from and those held out."""
    return _digest(secret.identity, b"prompt-split")


def policy_event_key(secret: Secret) -> bytes:
    """Return the key that policy events are signed with."""
    return _digest(secret.identity, b"policy-events")


def manifest_key(secret: Secret) -> bytes:
    """Return the key that the manifests of checkpoints are signed with."""
    return _digest(secret.identity, b"manifests")


def event_id(secret: Secret, owner: str, idempotency_key: str | None) -> str:
    """Return a feedback event's id: equal for equal owner and key, random without a key."""
    if idempotency_key is None:
        return f"fb-{_text(secrets.token_bytes(18))}"
    key = idempotency_key.encode()
    return f"fb-{_text(_digest(secret.identity, b'event', owner.encode(), key))}"


def retraction_id(secret: Secret, owner: str, retracted: str) -> str:
    """Return the id of the event that retracts the event `retracted`."""
    digest = _digest(secret.identity, b"retraction", owner.encode(), retracted.encode())
    return f"fb-{_text(digest)}"


def _tag(key: bytes, payload: bytes, owner: str) -> bytes:
    # The payload has a fixed length, so payload and owner cannot be confused.
    return _hmac(key, b"completion-id" + payload + owner.encode())[:_TAG_BYTES]


def create_completion_id(
    secret: Secret, owner: str, choices: int, policy_version: int, now: float | None = None
) -> str:
    """Create a completion id, 61 characters, that accepts votes for 30 days.

    The prefix `chatcmpl-` is not signed and may be replaced by `cmpl-` or `resp_`, which OpenAI
    uses for text completions and for responses.

    Args:
        secret: Secret of the installation.
        owner: Owner of the completion; signed, but not readable in the id.
        choices: Number of choices that can be voted on, 0 to 65,535.
        policy_version: Live version.
        now: Current time in Unix seconds; None takes the system's.

    Raises:
        ValueError: `choices` is out of range.

    """
    if not 0 <= choices <= MAX_CHOICES:
        raise ValueError(f"choices must be between 0 and {MAX_CHOICES}, not {choices}")
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
    """Return payload, tag, key id and claims, without checking the signature."""
    match = _ID.fullmatch(completion_id)
    if match is None:
        raise ForgedId("not a completion id")
    raw = urlsafe_b64decode(match[1])
    payload, tag = raw[: _PAYLOAD.size], raw[_PAYLOAD.size :]
    form, key_id, _, choices, expires, version = _PAYLOAD.unpack(payload)
    if form != _FORMAT:
        raise ForgedId("a completion id of an unknown format")
    return payload, tag, key_id.hex(), CompletionIdClaims(choices, expires, version)


def parse_claims(completion_id: str) -> CompletionIdClaims:
    """Return the claims of a completion id that was verified before.

    Raises:
        ForgedId: It does not have the form of a completion id.

    """
    return _parse(completion_id)[3]


def verify_owner(secret: Secret, completion_id: str, owner: str) -> CompletionIdClaims:
    """Check that an id was issued to this owner, and return its claims even if it has expired.

    Raises:
        ForgedId: It is invented, altered or another owner's, or its key was removed.

    """
    payload, tag, key_id, claims = _parse(completion_id)
    key = secret.keys.get(key_id)
    if key is None or not hmac.compare_digest(tag, _tag(key, payload, owner)):
        raise ForgedId("not a completion id of this owner")
    return claims


def check(
    secret: Secret, completion_id: str, owner: str, now: float | None = None
) -> CompletionIdClaims:
    """Check that an id was issued to this owner and still accepts votes.

    Raises:
        ForgedId: It was not issued to this owner.
        ExpiredId: It was issued more than 30 days ago.

    """
    claims = verify_owner(secret, completion_id, owner)
    if (time.time() if now is None else now) >= claims.expires:
        raise ExpiredId("the completion is too old to accept votes")
    return claims
