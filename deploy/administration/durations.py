"""Durations and dates that people type, such as 30d, 12h or 2026-12-31."""

import re
from datetime import UTC, datetime
from typing import Final

from deploy.errors import DeployError

_UNITS_MS: Final = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_DURATION: Final = re.compile(r"([0-9]{1,6})([mhdw])")
_MAX_MS: Final = 36_500 * _UNITS_MS["d"]


def parse_duration(text: str) -> int:
    """Return a duration in milliseconds: 0, or a whole number with m, h, d or w.

    Raises:
        DeployError: The text is not a duration, or longer than 100 years.

    """
    match = _DURATION.fullmatch(text)
    if match is None and text != "0":
        raise DeployError(
            f"'{text}' is not a duration: give a whole number and a unit (m, h, d or w), such as "
            "12h or 30d"
        )
    milliseconds = 0 if match is None else int(match[1]) * _UNITS_MS[match[2]]
    if milliseconds > _MAX_MS:
        raise DeployError(f"'{text}' is longer than 100 years: give at most 36500d")
    return milliseconds


def parse_expiry(text: str, now_ms: int) -> int:
    """Return a time of expiry in milliseconds since the epoch; 0 for 'never'.

    Args:
        text: A duration from now, a date (its first moment, UTC), or 'never'.
        now_ms: Current time in milliseconds since the epoch.

    Raises:
        DeployError: The text is none of these, or the time is not in the future.

    """
    if text == "never":
        return 0
    try:
        expires_ms = int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) * 1000
    except ValueError:
        if "-" in text:
            raise DeployError(
                f"'{text}' is not a date: give it as YYYY-MM-DD, or a duration such as 30d"
            ) from None
        expires_ms = now_ms + parse_duration(text)
    if expires_ms <= now_ms:
        raise DeployError(
            f"'{text}' is not in the future, so the key could never be used; give a later time"
        )
    return expires_ms
