"""`plaudit backup` and `plaudit restore`."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.commands.options import Home, Kafka, RegistryUrl, echo
from deploy.settings import DEFAULT_HOME


def backup(
    target: Annotated[
        Path, typer.Argument(metavar="DEST", help="Folder to write, which is new or empty.")
    ],
    home: Home = DEFAULT_HOME,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Copy the home folder to DEST, also while Plaudit runs."""
    from deploy.administration.backup import backup as run_backup

    run_backup(home, target, echo)


def restore(
    source: Annotated[Path, typer.Argument(help="Folder that 'plaudit backup' has written.")],
    home: Home = DEFAULT_HOME,
) -> None:
    """Write the home folder of a backup to a new or empty home folder, after checking it."""
    from deploy.administration.restore import restore as run_restore

    run_restore(source, home, echo)
