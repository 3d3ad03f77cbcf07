"""`plaudit keys list`, and the refusal to serve others without keys."""

import datetime
from pathlib import Path

from rich.table import Table

from deploy.errors import DeployError
from deploy.policies import open_log
from feedback.history import History
from feedback.keys import Key
from feedback.log import EventLog
from serving.access import is_loopback
from serving.usage import Usage, usage_file


def list_keys(home: Path) -> Table:
    """Give a table of all keys."""
    history = History(open_log(home))
    history.poll()
    usage = Usage(usage_file(home))
    table = Table(box=None)
    for column in ("id", "name", "role", "made", "revoked", "limits"):
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
    limits = [f"{key.rate:g} a minute"] if key.rate else []
    return [*limits, f"{used} of {key.quota} today"] if key.quota else limits


def _date(milliseconds: int) -> str:
    return datetime.date.fromtimestamp(milliseconds / 1000).isoformat()


def check_keys(host: str, home: Path, log: EventLog) -> None:
    """Refuse an address that others can reach while anybody may do anything.

    Raises:
        DeployError: `host` is no loopback address, and there is no key; says what to do.

    """
    if is_loopback(host):
        return
    history = History(log)
    history.poll()
    if not history.keys.usable:
        raise DeployError(
            f"{host} can be reached from other machines, and there is no API key yet, without "
            "which everybody may do everything. Make one:\n"
            f"  plaudit keys create --role operator --home {home}\n"
            "or use --host 127.0.0.1"
        )
