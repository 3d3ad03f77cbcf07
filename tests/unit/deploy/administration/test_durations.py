"""Durations and dates that people type."""

import pytest

from deploy.administration.durations import parse_duration, parse_expiry
from deploy.errors import DeployError

NOW = 1_798_588_800_000  # 2026-12-30 00:00 UTC
HOUR = 3_600_000


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("0", 0),
        ("0h", 0),
        ("5m", HOUR // 12),
        ("12h", 12 * HOUR),
        ("30d", 720 * HOUR),
        ("2w", 336 * HOUR),
        ("36500d", 36_500 * 24 * HOUR),
    ],
)
def test_durations(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5h", "1 d", "30D", "1y", "d30", "٣d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(DeployError, match="is not a duration: give a whole number and a unit"):
        parse_duration(text)


def test_a_duration_is_at_most_100_years() -> None:
    with pytest.raises(DeployError, match="longer than 100 years"):
        parse_duration("36501d")


def test_an_expiry_is_a_duration_a_date_or_never() -> None:
    assert parse_expiry("never", NOW) == 0
    assert parse_expiry("12h", NOW) == NOW + 12 * HOUR
    assert parse_expiry("2026-12-31", NOW) == NOW + 24 * HOUR


@pytest.mark.parametrize("text", ["0", "0d", "2026-12-30", "1999-01-01"])
def test_an_expiry_is_in_the_future(text: str) -> None:
    with pytest.raises(DeployError, match="not in the future"):
        parse_expiry(text, NOW)


@pytest.mark.parametrize("text", ["2026-13-01", "2026-12", "31-12-2026"])
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(DeployError, match="is not a date: give it as YYYY-MM-DD"):
        parse_expiry(text, NOW)
