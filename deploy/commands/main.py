"""The `plaudit` command line. Commands import what is slow to load when they run."""

import sys

import typer
from pydantic import ValidationError

from deploy.commands.development import kafka, simulate
from deploy.commands.feedback import dead_letter_app, feedback_app
from deploy.commands.inspection import doctor, status, watch
from deploy.commands.keys import keys_app
from deploy.commands.options import console
from deploy.commands.policies import policies_app
from deploy.commands.run import config, init, learn, serve, up
from deploy.commands.train import import_model, pretrain, sft
from deploy.errors import DeployError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A chat service that keeps learning from its users. Start with 'plaudit up'.",
)
for command in (
    *(status, watch, doctor),
    *(up, init, serve, learn),
    *(pretrain, sft, import_model),
    *(simulate, kafka),
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
        console.print(f"plaudit: setting '{place}': {first['msg']}", style="red")
        raise SystemExit(2) from None
    except Exception as error:
        if not isinstance(error, _user_errors()):
            raise
        console.print(f"plaudit: {error}", style="red", soft_wrap=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
