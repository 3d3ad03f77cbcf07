"""The `plaudit` command line. What is heavy is imported by the command that needs it."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from deploy.commands.feedback import dead_letter_app, feedback_app
from deploy.commands.keys import keys_app
from deploy.commands.operate import doctor, status, watch
from deploy.commands.options import DtypeOption, Home, Kafka, RegistryUrl, TuneOption, console, echo
from deploy.commands.policies import policies_app
from deploy.errors import DeployError
from deploy.local.processes import stop_on_signals
from deploy.settings import DEFAULT_HOME, UpSettings

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A chat service that keeps learning from its users. Start with 'plaudit up'.",
)
app.add_typer(policies_app, name="policies")
app.add_typer(keys_app, name="keys")
app.command()(status)
app.command()(watch)
app.command()(doctor)
app.add_typer(feedback_app, name="feedback")
app.add_typer(dead_letter_app, name="dead-letter")


def _dtype(given: str) -> Any:
    from deploy.sizing.processor import best_dtype, cpu_flags

    if given not in ("auto", "float32", "bfloat16"):
        raise DeployError(f"no dtype '{given}'; there are auto, float32 and bfloat16")
    return best_dtype(cpu_flags()) if given == "auto" else given


def _drop_none(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@app.command()
def up(
    home: Annotated[Path | None, typer.Option(help="Folder of everything [.plaudit].")] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the endpoint [8000].")] = None,
    learner_port: Annotated[
        int | None, typer.Option(help="Port of learner metrics [8001].")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="default, smollm2, or a Hugging Face folder or id.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16 [auto].")] = None,
    tune: TuneOption = None,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Run all of Plaudit on this machine: train the first model if need be, serve, learn."""
    from deploy.local.up import up as run_up

    options = _drop_none(
        home=home,
        host=host,
        port=port,
        learner_port=learner_port,
        model=model,
        dtype=dtype,
        tune=tune,
    )
    run_up(UpSettings(**options), echo)


@app.command()
def init(
    home: Home = DEFAULT_HOME,
    model: Annotated[
        str, typer.Option(help="default, smollm2, or a Hugging Face folder or id.")
    ] = "default",
    dtype: DtypeOption = "auto",
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Make and publish the first policy, if there is none; for a fleet, before its parts start."""
    from deploy.local.bootstrap import ensure_first_policy

    home.mkdir(parents=True, exist_ok=True)
    ensure_first_policy(home, model, _dtype(dtype), echo)


@app.command()
def serve(
    home: Home = DEFAULT_HOME,
    host: str = "127.0.0.1",
    port: int = 8000,
    replica: Annotated[str, typer.Option(help="This replica's name.")] = "replica-0",
    dtype: DtypeOption = "auto",
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Serve the live policy: the OpenAI-compatible endpoint and the feedback API."""
    from serving.engine.arguments import prepare_environment

    prepare_environment()
    import uvloop

    from deploy.sizing.machine import tuning_here
    from deploy.sizing.tuning import LORA_RANK
    from serving.app import serve as run_serve
    from serving.settings import ServingSettings

    _log_to_stderr()
    if LORA_RANK not in os.environ and (tuning := tuning_here(home)) is not None:
        os.environ |= tuning.serving_environment()
    settings = ServingSettings(
        home=home, host=host, port=port, replica=replica, dtype=_dtype(dtype)
    )
    uvloop.run(run_serve(settings))


@app.command()
def learn(
    home: Home = DEFAULT_HOME,
    metrics_port: Annotated[int, typer.Option(help="Port of the Prometheus metrics.")] = 8001,
    dtype: DtypeOption = "auto",
    tune: TuneOption = None,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Follow the log; retrain the reward model, run PPO and publish, for as long as it runs."""
    from deploy.sizing.machine import tuning_here
    from learner.cycle.service import run
    from learner.settings import LearnerSettings

    _log_to_stderr()
    stop = stop_on_signals()
    if tune is None and (tuning := tuning_here(home)) is not None:
        tune = tuning.tune
    options = _drop_none(dtype=_dtype(dtype), metrics_port=metrics_port, tune=tune)
    run(home, LearnerSettings(**options), stop)


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="Folder to write the model to.")],
    text: Annotated[
        list[Path] | None, typer.Option(help="Text files; none: a generated corpus.")
    ] = None,
    dtype: DtypeOption = "auto",
) -> None:
    """Train a small decoder-only model, and its tokenizer, from random weights."""
    from learner.pretraining.pretrain import pretrain as run_pretrain
    from learner.pretraining.progress import ProgressBar

    with ProgressBar(console) as progress:
        run_pretrain(out, text=text or None, dtype=_dtype(dtype), progress=progress)


@app.command()
def sft(
    model: Annotated[Path, typer.Option(help="Folder of the model to start from.")],
    out: Annotated[Path, typer.Option(help="Folder to write the model to.")],
    data: Annotated[
        Path | None,
        typer.Option(help='JSONL of {"messages": [...]}; none: generated demonstrations.'),
    ] = None,
    text: Annotated[
        list[Path] | None, typer.Option(help="Text files to mix in; none: a generated corpus.")
    ] = None,
    dtype: DtypeOption = "auto",
) -> None:
    """Fine-tune on demonstrations: pairs of prompt and ideal response."""
    from learner.pretraining.progress import ProgressBar
    from learner.pretraining.sft import sft as run_sft

    with ProgressBar(console) as progress:
        run_sft(model, out, data=data, text=text or None, dtype=_dtype(dtype), progress=progress)


@app.command()
def import_model(
    model: Annotated[str, typer.Argument(help="smollm2, or a Hugging Face folder or id.")],
    out: Annotated[Path, typer.Option(help="Folder to write the model to.")],
) -> None:
    """Bring in a model of your own as the first policy."""
    from deploy.sizing.machine import plan_here, shape_of
    from deploy.sizing.models import import_model as run_import

    with console.status(f"Reading {model}"):
        run_import(model, out, echo)
    echo("\n".join(plan_here(shape_of(out), _dtype("auto")).lines()))


@app.command()
def simulate(
    preference: Annotated[str, typer.Option(help="concise, polite, detailed or questions.")],
    comparisons: Annotated[int, typer.Option(min=1, help="Comparisons to send.")] = 400,
    raters: Annotated[int, typer.Option(min=1, help="People voting at once.")] = 8,
    url: Annotated[
        list[str] | None,
        typer.Option(help="Where Plaudit is; several times for several replicas."),
    ] = None,
    noise: Annotated[float, typer.Option(min=0.01, help="How unsure the raters are.")] = 0.7,
    seed: int = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 96,
    wait: Annotated[float, typer.Option(help="Longest wait for learning, in seconds.")] = 900,
    api_key: Annotated[str, typer.Option(envvar="PLAUDIT_API_KEY")] = "none",
) -> None:
    """Simulate people with a hidden preference who chat and vote over the HTTP API."""
    from deploy.simulation.simulate import Plan
    from deploy.simulation.simulate import simulate as run_simulate

    progress = run_simulate(
        Plan(
            urls=tuple(u.rstrip("/") for u in url or ["http://127.0.0.1:8000"]),
            preference=preference,
            comparisons=comparisons,
            raters=raters,
            noise=noise,
            seed=seed,
            max_tokens=max_tokens,
            wait_seconds=wait,
            api_key=api_key,
        )
    )
    if progress.version == progress.first_version:
        raise DeployError("no later version went live in time; the learner's log says why")


@app.command()
def kafka(
    folder: Annotated[Path, typer.Option(help="Its data.")] = DEFAULT_HOME / "kafka",
    port: Annotated[int, typer.Option(help="Port for clients.")] = 9092,
    controller_port: Annotated[int, typer.Option(help="Port of its controller.")] = 9093,
) -> None:
    """Run a single-node Apache Kafka for development; needs JDK 17 and Maven."""
    from deploy.local.broker import Broker

    broker = Broker(folder, port, controller_port)
    stop = stop_on_signals()
    broker.start(echo)
    echo(f"Kafka is up; in another terminal: plaudit up --kafka {broker.address}")
    while not stop.wait(0.5):
        if broker.process is None or broker.process.poll() is not None:
            raise DeployError(f"Kafka has stopped; see {folder / 'kafka.log'}")
    broker.stop()


@app.command()
def config() -> None:
    """Print the effective settings of 'plaudit up', as JSON."""
    typer.echo(json.dumps(UpSettings().model_dump(mode="json"), indent=2))


def _log_to_stderr() -> None:
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )
    for noisy in ("httpx", "httpcore", "urllib3", "kafka"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _user_errors() -> tuple[type[BaseException], ...]:
    """Return the errors whose message is meant for the user, of the packages that are loaded."""
    names = (
        ("serving.errors", "ServingError"),
        ("learner.errors", "LearnerError"),
        ("feedback.errors", "FeedbackError"),
        ("protos.checkpoints.registry", "RegistryError"),
    )
    loaded = [getattr(sys.modules[m], n) for m, n in names if m in sys.modules]
    return (DeployError, *loaded)


def main() -> None:
    """Run the command line; errors meant for users are one line, without a traceback."""
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
