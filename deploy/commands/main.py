"""The `plaudit` command line. Commands import what is slow to load when they run."""

import sys

import typer
from pydantic import ValidationError

from deploy.commands.backup import backup, restore
from deploy.commands.chat import chat
from deploy.commands.development import kafka, simulate
from deploy.commands.feedback import dead_letter_app, feedback_app
from deploy.commands.inspection import doctor, status, watch
from deploy.commands.keys import keys_app
from deploy.commands.options import LOCAL_URL, console
from deploy.commands.policies import policies_app
from deploy.commands.run import config, init, learn, serve, up
from deploy.commands.train import import_model, pretrain, sft
from deploy.errors import DeployError

# Typer prints each paragraph of the epilogue on a line of its own.
_NEXT_STEPS = "\n\n".join(
    (
        "Next steps:",
        "1. Run 'plaudit up', and wait until it prints 'Ready'.",
        f"2. Open {LOCAL_URL}/ in a browser: the page to chat, vote and watch it learn.",
        "3. Or run 'plaudit chat' in another terminal: chat and vote there.",
    )
)
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A chat service that keeps learning from its users.",
    epilog=_NEXT_STEPS,
)
for command in (
    *(status, watch, doctor),
    *(up, init, serve, learn),
    *(pretrain, sft, import_model),
    *(backup, restore),
    *(chat, simulate, kafka),
    config,
):
    app.command()(command)
app.add_typer(policies_app, name="policies")
app.add_typer(keys_app, name="keys")
app.add_typer(feedback_app, name="feedback")
app.add_typer(dead_letter_app, name="dead-letter")


def _user_errors() -> tuple[type[BaseException], ...]:
    """Return the error types whose message is meant for users, of the packages loaded so far."""
    names = (
        ("serving.errors", "ServingError"),
        ("learner.errors", "LearnerError"),
        ("feedback.errors", "FeedbackError"),
        ("protos.checkpoints.registry", "RegistryError"),
    )
    loaded = [getattr(sys.modules[m], n) for m, n in names if m in sys.modules]
    return (DeployError, *loaded)


def main() -> None:
    """Run the command line; print errors that are meant for users without a traceback."""
    try:
        app()
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        subject = f"setting '{place}': " if place else ""  # none if it is about several
        console.print(f"plaudit: {subject}{first['msg']}", style="red", soft_wrap=True)
        raise SystemExit(2) from None
    except Exception as error:
        if not isinstance(error, _user_errors()):
            raise
        console.print(f"plaudit: {error}", style="red", soft_wrap=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
