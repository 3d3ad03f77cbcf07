"""`plaudit keys`."""

import getpass
from typing import Annotated

import typer

from deploy.commands.options import Home, Kafka, console, echo
from deploy.settings import DEFAULT_HOME
from feedback.control.keys import Role

keys_app = typer.Typer(no_args_is_help=True, help="API keys: make, list, revoke.")


@keys_app.command("create")
def keys_create(
    role: Annotated[
        Role,
        typer.Option(
            help="user: chat and vote; annotator: feedback as one, too; operator: everything."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Stands in the audit trail [its id].")] = None,
    rate: Annotated[
        float, typer.Option(min=0, help="Requests a minute, for each replica; 0: no limit.")
    ] = 0,
    quota: Annotated[
        int, typer.Option(min=0, help="Requests for completions a day (UTC); 0: no limit.")
    ] = 0,
    home: Home = DEFAULT_HOME,
    kafka: Kafka = None,
) -> None:
    """Make a key, and print it: this once, since only its hash is kept."""
    from deploy.administration.policies import log_description
    from feedback.control.history import History
    from feedback.control.keys import make_key
    from feedback.log.opening import open_log

    log = open_log(home)
    history = History(log)
    history.poll()
    name, token = make_key(
        log, history.keys, role, by=getpass.getuser(), name=name, rate=rate, quota=quota
    )
    if not history.keys.required:
        echo("From now on every request needs a key.")
    echo(f"Key '{name}' ({role}), in {log_description(home)}, shown this once:")
    typer.echo(token)


@keys_app.command("list")
def keys_list(home: Home = DEFAULT_HOME, kafka: Kafka = None) -> None:
    """Show the keys, revoked ones too, and what they used today."""
    from deploy.administration.keys import list_keys

    console.print(list_keys(home))


@keys_app.command("revoke")
def keys_revoke(name_or_id: str, home: Home = DEFAULT_HOME, kafka: Kafka = None) -> None:
    """Revoke a key for good; every replica refuses it within a second."""
    from deploy.administration.policies import open_log
    from feedback.control.history import History
    from feedback.control.keys import revoke_key

    log = open_log(home)
    history = History(log)
    history.poll()
    for key in revoke_key(log, history.keys, name_or_id, by=getpass.getuser()):
        echo(f"Key '{key.name}' ({key.role}) opens nothing any more.")
