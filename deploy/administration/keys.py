"""`plaudit keys`: create, rotate and list API keys."""

import datetime
from pathlib import Path
from typing import Final

from rich.table import Table

from deploy.administration.durations import parse_duration, parse_expiry
from deploy.administration.policies import open_log
from deploy.errors import DeployError
from feedback import opening
from feedback.control.history import History
from feedback.control.key_operations import (
    find_current_key,
    make_key,
    owner_from_token,
    rotate_key,
)
from feedback.control.keys import Key, Role, milliseconds_now, utc_text
from feedback.log.kafka_settings import KafkaSettings
from feedback.privacy.identity import Secret, load_or_create_secret
from serving.http.usage import KINDS, Usage, usage_file

_UNITS: Final = ((86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute"))


def create_key(
    home: Path,
    role: Role,
    *,
    by: str,
    name: str | None,
    rate: float,
    quota: int,
    expires: str,
    trusted_users: bool = False,
    token_quota: int = 0,
    byte_quota: int = 0,
) -> tuple[str, str, bool]:
    """Create a key; return its name, its token, and whether it is the first of the installation.

    Raises:
        DeployError: `expires` is invalid.
        KeyRejected: The name is invalid or taken.
        LogUnavailable: The key may or may not exist; create another.

    """
    expires_ms = parse_expiry(expires, milliseconds_now())
    log = opening.open_log(home)
    history = History(log)
    history.poll()
    name, token = make_key(
        log,
        history.keys,
        role,
        by=by,
        name=name,
        rate=rate,
        quota=quota,
        token_quota=token_quota,
        byte_quota=byte_quota,
        expires_ms=expires_ms,
        trusted_users=trusted_users,
        secret=_secret(home),
    )
    return name, token, not history.keys.required


def rotate(
    home: Path,
    name_or_id: str,
    *,
    by: str,
    grace: str,
    expires: str | None,
    api_key: str | None,
    trusted_users: bool | None = None,
) -> tuple[str, str]:
    """Rotate a key; return a message about the old key, and the new token.

    Raises:
        DeployError: There is no installation in `home`, or a duration is invalid.
        KeyRejected: The key cannot be rotated.
        LogUnavailable: The key may or may not be rotated; rotate it again.

    """
    now_ms, grace_ms = milliseconds_now(), parse_duration(grace)
    expires_ms = None if expires is None else parse_expiry(expires, now_ms)
    log = open_log(home)
    history = History(log)
    history.poll()
    key, owner = find_current_key(history.keys, name_or_id), None
    if not key.owner and api_key is not None:
        secret = _secret(home)
        if secret is None:
            raise DeployError(f"{home} has no secret.json, which the key's owner depends on")
        owner = owner_from_token(key, history.keys, secret, api_key)
    key, token = rotate_key(
        log,
        history.keys,
        key.id,
        by=by,
        grace_ms=grace_ms,
        expires_ms=expires_ms,
        trusted_users=trusted_users,
        owner=owner,
    )
    until_ms = min(now_ms + grace_ms, key.expires_ms or now_ms + grace_ms)
    end = f"ends {utc_text(until_ms)}" if grace_ms else "is revoked"
    return f"The old key '{key.name}' ({key.id}) {end}.", token


def _secret(home: Path) -> Secret | None:
    """Return the installation's secret; None if a fleet's secret is not in this home."""
    path = home / "secret.json"
    if KafkaSettings().servers and not path.is_file():
        return None  # a new one would differ from that of the replicas
    return load_or_create_secret(path)


def list_keys(home: Path) -> Table:
    """Return a table of all keys."""
    history = History(open_log(home))
    history.poll()
    usage = Usage(usage_file(home))
    table = Table(box=None)
    for column in ("id", "name", "role", "created", "ends", "limits"):
        table.add_column(column, no_wrap=True)
    now_ms = milliseconds_now()
    for key in history.keys.keys.values():
        table.add_row(
            key.id,
            key.name,
            key.role,
            _date(key.made_ms),
            end_text(key, now_ms),
            ", ".join(_limits(key, usage)),
        )
    usage.close()
    return table


def end_text(key: Key, now_ms: int) -> str:
    """Return when a key was revoked or expires, or that it has expired; empty for never."""
    if key.revoked_ms is not None:
        return f"revoked {_date(key.revoked_ms)}"
    if key.expires_ms is None:
        return ""
    if key.has_expired(now_ms):
        return "expired"
    left_ms = key.expires_ms - now_ms
    for length_ms, unit in _UNITS:
        if count := left_ms // length_ms:
            return f"in {count} {unit}{'' if count == 1 else 's'}"
    return "in less than a minute"


def _limits(key: Key, usage: Usage) -> list[str]:
    limits = [f"{key.rate:g} per minute"] if key.rate else []
    for kind in KINDS:
        if quota := key.quota_of(kind):
            unit = "" if kind == "requests" else f" {kind}"
            limits.append(f"{usage.used(key.account, kind)} of {quota}{unit} today")
    return [*limits, "trusted users"] if key.trusted_users else limits


def _date(milliseconds: int) -> str:
    return datetime.date.fromtimestamp(milliseconds / 1000).isoformat()
