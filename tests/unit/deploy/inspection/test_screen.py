"""The screen of `plaudit status`."""

from deploy.inspection.observe import LoggedError, Status
from tests.support.deployment.inspection import LEARNING, screen_text


def test_the_screen_shows_the_whole_status() -> None:
    shown = screen_text(
        Status(
            url="http://here",
            answer="is ready",
            learning=LEARNING,
            lag=2,
            cycle={
                "number": 4,
                "outcome": "refused",
                "stage": "done",
                "reasons": ["too far"],
                "seconds": {"reward": 30.0, "ppo": 60.0},
            },
            storage={"ledger.db": 900, "log.db": 5 << 20},
            disk_free=3 << 30,
            errors=(LoggedError("serving", "2026-01-01 10:00:00,000", "the disk is full"),),
        )
    )
    for line in (
        "http://here is ready",
        "Version 3 is live; version 4 is on trial; publishing is held",
        "cycle 5, ppo 3/14, for 0:01:30",
        "4: refused: too far; took 0:01:30",
        "12 (comparison 10, rating 2); 5 not learned from yet",
        "2 log records are not in the ledger yet",
        "ledger.db 900 B, log.db 5 MiB; 3.0 GiB of the disk are free",
        "replica-0, replica-1",
        "Last refused: a candidate from version 2, 0:10:00 ago: kl; text",
        "serving 2026-01-01 10:00:00,000 the disk is full",
    ):
        assert line in shown, shown
    (row,) = [line.split() for line in shown.splitlines() if line.strip().startswith("3 ")]
    assert row[:7] == ["3", "2", "live", "7", "0.81", "0.93", "10.0"]
