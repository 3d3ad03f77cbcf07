"""`plaudit dead-letter`: records that could not be used, as the learner's ledger holds them."""

from pathlib import Path

from rich.table import Table

from deploy.administration.policies import open_log
from deploy.errors import DeployError
from feedback.ledger.store import Ledger


def _ledger(home: Path) -> Ledger:
    file = home / "ledger.db"
    if not file.is_file():
        raise DeployError(f"{home} has no ledger: has a learner run there?")
    return Ledger(file)


def list_dead_letters(home: Path) -> Table:
    """Return a table of them.

    Raises:
        DeployError: There is no ledger in `home`.

    """
    ledger = _ledger(home)
    try:
        letters = ledger.dead_letters()
    finally:
        ledger.close()
    table = Table(title=None if letters else "There are none.")
    for column in ("topic", "partition", "offset", "key", "type", "bytes", "reason"):
        table.add_column(column)
    for d in letters:
        size = str(len(d.value))
        table.add_row(d.topic, str(d.partition), str(d.offset), d.key, d.type, size, d.reason)
    return table


def retry(home: Path) -> str:
    """Send them through their topics once more; say how many there were.

    Raises:
        DeployError: There is no ledger in `home`.
        LogUnavailable: The log did not take them; they are where they were.

    """
    ledger = _ledger(home)
    log = open_log(home)
    try:
        count = ledger.retry_dead_letters(log)
    finally:
        log.close()
        ledger.close()
    return f"{count} records were sent once more; 'plaudit dead-letter list' shows what came of it."
