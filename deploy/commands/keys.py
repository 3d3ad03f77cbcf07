"""`plaudit keys`."""

import getpass
from typing import Annotated

import typer

from deploy.commands.options import Home, Kafka, console, echo
from deploy.settings import DEFAULT_HOME
from feedback.control.keys import Role

keys_app = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.")


@keys_app.command("create")
def keys_create(
    role: Annotated[
        Role,
        typer.Option(
            help="user: chat and vote; annotator: also vote as an annotator; operator: everything."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name in the audit trail (default: the key's id).")
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0, help="Requests per minute and replica; 0 for no limit.")
    ] = 0,
    quota: Annotated[
        int, typer.Option(min=0, help="Completion requests per day (UTC); 0 for no limit.")
    ] = 0,
    home: Home = DEFAULT_HOME,
    kafka: Kafka = None,
) -> None:
    """Create a key and print it. It is shown once only, since the log keeps just its hash."""
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
    echo(f"Key '{name}' ({role}), stored in {log_description(home)}. It is shown only this once:")
    typer.echo(token)


@keys_app.command("list")
def keys_list(home: Home = DEFAULT_HOME, kafka: Kafka = None) -> None:
    """Show all keys, including revoked ones, and how much of its quota each has used today."""
    from deploy.administration.keys import list_keys

    console.print(list_keys(home))


@keys_app.command("revoke")
def keys_revoke(
    name_or_id: Annotated[str, typer.Argument(help="Name or id of the key.")],
    home: Home = DEFAULT_HOME,
    kafka: Kafka = None,
) -> None:
    """Revoke a key permanently; every replica refuses it within a second."""
    from deploy.administration.policies import open_log
    from feedback.control.history import History
    from feedback.control.keys import revoke_key

    log = open_log(home)
    history = History(log)
    history.poll()
    for key in revoke_key(log, history.keys, name_or_id, by=getpass.getuser()):
        echo(f"Key '{key.name}' ({key.role}) is revoked.")
