"""`plaudit dead-letter`: list and retry the records that the learner's ledger could not use."""

from pathlib import Path

from rich.table import Table

from deploy.administration.policies import open_log
from deploy.errors import DeployError
from feedback.ledger.store import Ledger


def _ledger(home: Path) -> Ledger:
    file = home / "ledger.db"
    if not file.is_file():
        raise DeployError(f"{home} has no ledger, because no learner has run there yet")
    return Ledger(file)


def list_dead_letters(home: Path) -> Table:
    """Return a table of all dead letters.

    Raises:
        DeployError: There is no ledger in `home`.

    """
    ledger = _ledger(home)
    try:
        letters = ledger.dead_letters()
    finally:
        ledger.close()
    table = Table(title=None if letters else "There are no dead letters.")
    for column in ("topic", "partition", "offset", "key", "type", "bytes", "reason"):
        table.add_column(column)
    for d in letters:
        size = str(len(d.value))
        table.add_row(d.topic, str(d.partition), str(d.offset), d.key, d.type, size, d.reason)
    return table


def retry(home: Path) -> str:
    """Append all dead letters to their topics again, and return a message with their number.

    Raises:
        DeployError: There is no ledger in `home`.
        LogUnavailable: The log cannot be written; the dead letters stay in the ledger.

    """
    ledger = _ledger(home)
    log = open_log(home)
    try:
        count = ledger.retry_dead_letters(log)
    finally:
        log.close()
        ledger.close()
    return (
        f"{count} records were appended to the log again. 'plaudit dead-letter list' shows whether "
        "they could be used."
    )
