"""`plaudit policies`."""

import getpass
from pathlib import Path
from typing import Annotated

import typer

from deploy.commands.options import Home, Kafka, RegistryUrl, console, echo
from deploy.settings import DEFAULT_HOME

policies_app = typer.Typer(
    no_args_is_help=True, help="Inspect policy versions, choose the live one, roll back."
)


@policies_app.command("list")
def policies_list(
    home: Home = DEFAULT_HOME, kafka: Kafka = None, registry: RegistryUrl = None
) -> None:
    """Show every version, its parent, and which is live."""
    from deploy.administration.policies import list_policies

    console.print(list_policies(home))


@policies_app.command("show")
def policies_show(
    version: Annotated[
        int | None,
        typer.Argument(
            help="Version to show. Default: the last learning cycle here, even if it was refused."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report's data as JSON.")
    ] = False,
    home: Home = DEFAULT_HOME,
    registry: RegistryUrl = None,
) -> None:
    """Show the report of the cycle that made a version, or its manifest if there is no report."""
    from rich.markdown import Markdown

    from deploy.administration.policies import REPORT, report_folder, show

    folder = report_folder(home, version)
    if version is not None and not (folder / REPORT).is_file():
        typer.echo(show(home, version))
    elif as_json:
        typer.echo((folder / "report.json").read_text())
    elif console.is_terminal:
        console.print(Markdown((folder / REPORT).read_text()))
        echo(f"Chart: {folder / 'report.svg'}")
    else:
        typer.echo((folder / REPORT).read_text(), nl=False)


@policies_app.command("activate")
def policies_activate(
    version: Annotated[int, typer.Argument(help="Version to make live.")],
    home: Home = DEFAULT_HOME,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Make a version live. Choosing an earlier one is a rollback and holds publishing."""
    from deploy.administration.policies import operations

    echo(operations(home).activate(version, getpass.getuser()))


@policies_app.command("rollback")
def policies_rollback(
    home: Home = DEFAULT_HOME, kafka: Kafka = None, registry: RegistryUrl = None
) -> None:
    """Go back to the version before the live one, and hold publishing."""
    from deploy.administration.policies import operations

    echo(operations(home).rollback(getpass.getuser()))


@policies_app.command("export")
def policies_export(
    version: Annotated[int, typer.Argument(help="Version to export.")],
    folder: Annotated[Path, typer.Argument(help="New folder to write to.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge an adapter into the weights.")
    ] = False,
    push_to_hub: Annotated[
        str | None, typer.Option(help="Upload it to this private repository of the hub, too.")
    ] = None,
    home: Home = DEFAULT_HOME,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Write a version as a folder that transformers and vLLM load, with a model card."""
    from deploy.administration.policies import open_log
    from deploy.administration.policy_export import export_policy, push
    from feedback.registry import open_registry

    log = open_log(home)
    try:
        export_policy(open_registry(home), log, version, folder, merge=merge)
    finally:
        log.close()
    echo(f"Wrote version {version} to {folder}.")
    if push_to_hub is not None:
        echo(f"Uploaded it to {push(folder, push_to_hub)}.")


@policies_app.command("prune")
def policies_prune(
    home: Home = DEFAULT_HOME,
    keep: Annotated[int, typer.Option(min=1, help="How many of the latest versions to keep.")] = 5,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Delete old checkpoints, except the first, the live one and its rollback target."""
    from deploy.administration.policies import prune

    echo(prune(home, keep))


@policies_app.command("sign")
def policies_sign(home: Home = DEFAULT_HOME, registry: RegistryUrl = None) -> None:
    """Sign the versions that an earlier release has published to a shared registry.

    Whoever else has written a version without a signature gets it signed too, so do it once, after
    the upgrade, where only this installation writes the registry.
    """
    from deploy.administration.policies import sign

    sign(home, echo)


@policies_app.command("hold")
def policies_hold(
    home: Home = DEFAULT_HOME, kafka: Kafka = None, registry: RegistryUrl = None
) -> None:
    """Hold publishing: no new version goes live until it is resumed."""
    from deploy.administration.policies import operations

    echo(operations(home).hold(getpass.getuser()))


@policies_app.command("resume")
def policies_resume(
    home: Home = DEFAULT_HOME, kafka: Kafka = None, registry: RegistryUrl = None
) -> None:
    """Resume publishing after a rollback or a hold."""
    from deploy.administration.policies import operations

    echo(operations(home).resume(getpass.getuser()))
