"""`plaudit keys`."""

import getpass
from typing import Annotated, Final

import typer

from deploy.commands.options import Home, Kafka, console, echo
from deploy.settings import DEFAULT_HOME
from feedback.control.keys import Role

_MAX_WIDTH: Final = 400
keys_app = typer.Typer(no_args_is_help=True, help="Create, rotate, list and revoke API keys.")


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
    token_quota: Annotated[
        int,
        typer.Option(
            min=0,
            help="Tokens per day (UTC) that requests may ask for: prompts, and n times max_tokens; "
            "0 for no limit.",
        ),
    ] = 0,
    byte_quota: Annotated[
        int, typer.Option(min=0, help="Bytes of requests per day (UTC); 0 for no limit.")
    ] = 0,
    expires: Annotated[
        str,
        typer.Option(help="When it expires: 30d, 12h, a date (2026-12-31, UTC), or never."),
    ] = "never",
    trusted_users: Annotated[
        bool,
        typer.Option(
            "--trusted-users",
            help="The key is a service's, which names real people as 'user': count the votes of "
            "all. The votes of other keys than operators' are bounded.",
        ),
    ] = False,
    home: Home = DEFAULT_HOME,
    kafka: Kafka = None,
) -> None:
    """Create a key and print it. It is shown once only, since the log keeps just its hash."""
    from deploy.administration.keys import create_key
    from deploy.administration.policies import log_description

    name, token, first = create_key(
        home,
        role,
        by=getpass.getuser(),
        name=name,
        rate=rate,
        quota=quota,
        token_quota=token_quota,
        byte_quota=byte_quota,
        expires=expires,
        trusted_users=trusted_users,
    )
    if first:
        echo("From now on every request needs a key.")
    echo(f"Key '{name}' ({role}), stored in {log_description(home)}. It is shown only this once:")
    typer.echo(token)


@keys_app.command("list")
def keys_list(home: Home = DEFAULT_HOME, kafka: Kafka = None) -> None:
    """Show all keys, also expired and revoked ones, with limits and what was used today."""
    from deploy.administration.keys import list_keys

    table = list_keys(home)
    wide = console.options.update(width=_MAX_WIDTH)
    table.width = console.measure(table, options=wide).maximum  # cut no id off on a narrow screen
    console.print(table, crop=False, soft_wrap=True)


@keys_app.command("rotate")
def keys_rotate(
    name_or_id: Annotated[str, typer.Argument(help="Name or id of the key.")],
    grace: Annotated[
        str, typer.Option(help="How long the old key stays valid, such as 24h; 0 revokes it.")
    ] = "0",
    expires: Annotated[
        str | None,
        typer.Option(
            help="When the new key expires: 30d, 12h, a date (2026-12-31, UTC), or never. "
            "Default: when the old one would have."
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="PLAUDIT_API_KEY",
            help="The current key; needed only if an earlier version created it. Others on this "
            "machine can read arguments; use the environment variable.",
        ),
    ] = None,
    trusted_users: Annotated[
        bool | None,
        typer.Option(
            help="Whether to count the votes of all its users, also earlier ones. Default: as the "
            "old key."
        ),
    ] = None,
    home: Home = DEFAULT_HOME,
    kafka: Kafka = None,
) -> None:
    """Replace a key by another of the same owner, role and limits, and print it once."""
    from deploy.administration.keys import rotate

    ended, token = rotate(
        home,
        name_or_id,
        by=getpass.getuser(),
        grace=grace,
        expires=expires,
        api_key=api_key,
        trusted_users=trusted_users,
    )
    echo(f"{ended} The new one is shown only this once:")
    typer.echo(token)


@keys_app.command("revoke")
def keys_revoke(
    name_or_id: Annotated[str, typer.Argument(help="Name or id of the key.")],
    home: Home = DEFAULT_HOME,
    kafka: Kafka = None,
) -> None:
    """Revoke a key permanently; every replica refuses it within a second."""
    from deploy.administration.policies import open_log
    from feedback.control.history import History
    from feedback.control.key_operations import revoke_key

    log = open_log(home)
    history = History(log)
    history.poll()
    for key in revoke_key(log, history.keys, name_or_id, by=getpass.getuser()):
        echo(f"Key '{key.name}' ({key.role}) is revoked.")
