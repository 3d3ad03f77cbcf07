"""`plaudit feedback` and `plaudit dead-letter`."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.commands.options import Home, Kafka, RegistryUrl, console, echo
from deploy.settings import DEFAULT_HOME

feedback_app = typer.Typer(
    no_args_is_help=True, help="Votes: take them out, bring them in, forget."
)
dead_letter_app = typer.Typer(no_args_is_help=True, help="Records that could not be used.")


@feedback_app.command("export")
def feedback_export(
    out: Annotated[Path, typer.Argument(help="JSONL file to write.")], home: Home = DEFAULT_HOME
) -> None:
    """Write all opinions that count, as preference pairs and labelled answers."""
    from deploy.administration.exchange import export_feedback

    done = export_feedback(home, out)
    echo(
        f"{out}: {done.pairs} pairs, {done.singles} labelled answers; {done.skipped} opinions "
        "(ties, comments) have no place in this shape."
    )


@feedback_app.command("import")
def feedback_import(
    file: Annotated[Path, typer.Argument(help="JSONL with prompt, chosen and rejected.")],
    home: Home = DEFAULT_HOME,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Bring in votes: pairs (prompt, chosen, rejected), or answers with a label."""
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
    echo(f"{count} votes are in the log; the learner takes them up when it runs.")


@feedback_app.command("forget")
def feedback_forget(
    subject: Annotated[str, typer.Option(help="The person, as requests name them in 'user'.")],
    api_key: Annotated[
        str | None, typer.Option(help="The key of those requests; none: no key is required.")
    ] = None,
    home: Home = DEFAULT_HOME,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Erase a person's completions and votes; say which versions learned from them."""
    from deploy.administration.forget import forget

    forget(home, subject, api_key, echo)


@dead_letter_app.command("list")
def dead_letter_list(home: Home = DEFAULT_HOME) -> None:
    """Show the records that could not be used, and why."""
    from deploy.administration.dead_letters import list_dead_letters

    console.print(list_dead_letters(home))


@dead_letter_app.command("retry")
def dead_letter_retry(home: Home = DEFAULT_HOME, kafka: Kafka = None) -> None:
    """Send them through their topics once more, after what set them aside has changed."""
    from deploy.administration.dead_letters import retry

    echo(retry(home))
