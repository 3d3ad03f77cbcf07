"""`plaudit feedback` and `plaudit dead-letter`."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.commands.options import Home, Kafka, RegistryUrl, console, echo
from deploy.settings import DEFAULT_HOME

feedback_app = typer.Typer(no_args_is_help=True, help="Export, import and erase feedback.")
dead_letter_app = typer.Typer(
    no_args_is_help=True, help="List and retry log records that could not be used."
)


@feedback_app.command("export")
def feedback_export(
    out: Annotated[Path, typer.Argument(help="JSONL file to write.")], home: Home = DEFAULT_HOME
) -> None:
    """Write all effective feedback to a file, as preference pairs and labelled answers."""
    from deploy.administration.exchange import export_feedback

    counts = export_feedback(home, out)
    echo(
        f"Wrote {counts.pairs} pairs and {counts.singles} labelled answers to {out}. Skipped "
        f"{counts.skipped} feedback events that this format cannot express (ties, comments, "
        "empty or equal answers)."
    )


@feedback_app.command("import")
def feedback_import(
    file: Annotated[
        Path,
        typer.Argument(
            help="JSONL file of pairs (prompt, chosen, rejected) or labelled answers (prompt, "
            "completion, label)."
        ),
    ],
    home: Home = DEFAULT_HOME,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Add votes from a file: preference pairs and labelled answers."""
    from deploy.administration.exchange import import_feedback
    from deploy.administration.policies import open_log
    from protos.checkpoints.shared_registry import open_registry

    checkpoints = open_registry(home)
    checkpoints.verify(1)
    log = open_log(home)
    try:
        count = import_feedback(file, log, checkpoints.path(1))
    finally:
        log.close()
    echo(f"Added {count} votes to the log. The learner uses them when it next runs.")


@feedback_app.command("forget")
def feedback_forget(
    subject: Annotated[
        str, typer.Option(help="The person to forget, as their requests name them in 'user'.")
    ],
    api_key: Annotated[
        str | None,
        typer.Option(help="API key of those requests; leave out if they were sent without one."),
    ] = None,
    home: Home = DEFAULT_HOME,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Erase a person's completions and feedback, and list the versions that learned from them."""
    from deploy.administration.forget import forget

    forget(home, subject, api_key, echo)


@dead_letter_app.command("list")
def dead_letter_list(home: Home = DEFAULT_HOME) -> None:
    """Show the records that could not be used, and why."""
    from deploy.administration.dead_letters import list_dead_letters

    console.print(list_dead_letters(home))


@dead_letter_app.command("retry")
def dead_letter_retry(home: Home = DEFAULT_HOME, kafka: Kafka = None) -> None:
    """Append these records to their topics again, after the cause has been fixed."""
    from deploy.administration.dead_letters import retry

    echo(retry(home))
