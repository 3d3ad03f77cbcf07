"""`plaudit feedback` and `plaudit dead-letter`."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.options import Home, Kafka, RegistryUrl, console, echo
from deploy.errors import DeployError
from deploy.settings import DEFAULT_HOME

if TYPE_CHECKING:
    from deploy.administration.persons import Sender

Subject = Annotated[
    str | None,
    typer.Option(
        help="The person, as their requests name them in 'user'; the page shows its own id under "
        "'Answers'."
    ),
]
Unnamed = Annotated[
    bool,
    typer.Option("--unnamed", help="Whoever sent requests that name nobody, instead of --subject."),
]
KeyName = Annotated[
    str | None,
    typer.Option(
        help="Name or id of the API key of those requests; leave out if they were sent without one."
    ),
]
OwnerId = Annotated[
    str | None, typer.Option(help="Owner id that the requests are stored with, instead of --key.")
]
feedback_app = typer.Typer(no_args_is_help=True, help="Export, import, show and erase feedback.")
dead_letter_app = typer.Typer(
    no_args_is_help=True, help="List and retry log records that could not be used."
)


@feedback_app.command("export")
def feedback_export(
    out: Annotated[Path, typer.Argument(help="JSONL file to write.")], home: Home = DEFAULT_HOME
) -> None:
    """Write all effective feedback to a file, as preference pairs and labelled answers."""
    from deploy.vote_files.exchange import export_feedback

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
            help="JSONL, JSON or Parquet file, folder of the 'datasets' library, or id of a data "
            "set on the hub, with pairs (prompt, chosen, rejected; the prompt may be part of the "
            "answers), labelled answers (prompt, completion, label), HH-RLHF's transcripts, "
            "UltraFeedback, or OpenAssistant's trees."
        ),
    ],
    split: Annotated[
        str | None, typer.Option(help="Split of a data set (default: train, or the only one).")
    ] = None,
    skip_unusable: Annotated[
        bool, typer.Option(help="Leave out rows that cannot be used instead of refusing all.")
    ] = False,
    home: Home = DEFAULT_HOME,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Add votes from a file or a data set: preference pairs, rankings and labelled answers."""
    from deploy.administration.policies import open_log
    from deploy.vote_files.exchange import import_feedback
    from feedback.registry import open_registry

    log = open_log(home)
    try:
        checkpoints = open_registry(home)
        checkpoints.verify(1)
        report = import_feedback(
            file, log, checkpoints.path(1), split=split, skip_unusable=skip_unusable
        )
    finally:
        log.close()
    echo("\n".join([*report.lines(), "The learner uses them when it next runs."]))


@feedback_app.command("show")
def feedback_show(
    out: Annotated[Path, typer.Argument(help="JSONL file to write; it must not exist.")],
    subject: Subject = None,
    unnamed: Unnamed = False,
    key: KeyName = None,
    owner: OwnerId = None,
    home: Home = DEFAULT_HOME,
    kafka: Kafka = None,
) -> None:
    """Write all that the log holds about a person: completions, feedback and dead letters."""
    from deploy.administration.persons import write_held

    count = write_held(home, _sender(subject, unnamed, key, owner), out)
    echo(f"Wrote {count} records to {out}.")


@feedback_app.command("forget")
def feedback_forget(
    subject: Subject = None,
    unnamed: Unnamed = False,
    key: KeyName = None,
    owner: OwnerId = None,
    home: Home = DEFAULT_HOME,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Erase a person's completions and feedback, and list the versions that learned from them."""
    from deploy.administration.forget import forget

    forget(home, _sender(subject, unnamed, key, owner), echo)


def _sender(subject: str | None, unnamed: bool, key: str | None, owner: str | None) -> "Sender":
    from deploy.administration.persons import Sender

    if bool(subject) == unnamed:
        raise DeployError("name the person with --subject, or give --unnamed; one of the two")
    if key is not None and owner is not None:
        raise DeployError("give --key or --owner, not both")
    ask = functools.partial(typer.prompt, hide_input=True)
    return Sender(subject or "", key, owner, ask)


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
