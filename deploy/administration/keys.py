"""`plaudit keys list`."""

import datetime
from pathlib import Path

from rich.table import Table

from deploy.administration.policies import open_log
from feedback.control.history import History
from feedback.control.keys import Key
from serving.http.usage import Usage, usage_file


def list_keys(home: Path) -> Table:
    """Return a table of all keys."""
    history = History(open_log(home))
    history.poll()
    usage = Usage(usage_file(home))
    table = Table(box=None)
    for column in ("id", "name", "role", "created", "revoked", "limits"):
        table.add_column(column, no_wrap=True)
    for key in history.keys.keys.values():
        table.add_row(
            key.id,
            key.name,
            key.role,
            _date(key.made_ms),
            "" if key.revoked_ms is None else _date(key.revoked_ms),
            ", ".join(_limits(key, usage.used(key.id))),
        )
    usage.close()
    return table


def _limits(key: Key, used: int) -> list[str]:
    limits = [f"{key.rate:g} per minute"] if key.rate else []
    return [*limits, f"{used} of {key.quota} today"] if key.quota else limits


def _date(milliseconds: int) -> str:
    return datetime.date.fromtimestamp(milliseconds / 1000).isoformat()
