"""`plaudit up`, `init`, `serve`, `learn` and `config`: run Plaudit, or one of its processes."""

import json
import logging
import os
import sys
from typing import Annotated

import typer

from deploy.commands.options import (
    DtypeOption,
    FromScratch,
    Home,
    Kafka,
    RegistryUrl,
    TuneOption,
    UpHome,
    UpHost,
    UpLearnerPort,
    UpModel,
    UpPort,
    VllmArguments,
    drop_none,
    echo,
)
from deploy.local.processes import stop_on_signals
from deploy.settings import DEFAULT_HOME, UpSettings


def up(
    vllm_arguments: VllmArguments = None,
    home: UpHome = None,
    host: UpHost = None,
    port: UpPort = None,
    learner_port: UpLearnerPort = None,
    model: UpModel = None,
    from_scratch: FromScratch = False,
    dtype: Annotated[
        str | None,
        typer.Option(help="Number format: auto, float32 or bfloat16 (default: auto)."),
    ] = None,
    tune: TuneOption = None,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Run all of Plaudit on this machine: make the first policy if needed, serve, and learn."""
    from deploy.local.up import up as run_up

    options = drop_none(
        home=home,
        host=host,
        port=port,
        learner_port=learner_port,
        model=model,
        from_scratch=from_scratch or None,
        dtype=dtype,
        tune=tune,
    )
    run_up(UpSettings(**options), echo)


def init(
    home: Home = DEFAULT_HOME,
    model: Annotated[
        str,
        typer.Option(
            help="First policy: 'default', 'smollm2', or the folder or id of a Hugging Face model."
        ),
    ] = "default",
    from_scratch: FromScratch = False,
    dtype: DtypeOption = "auto",
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Make and publish the first policy, unless there is one; run it once before a fleet starts."""
    from deploy.local.bootstrap import ensure_first_policy
    from deploy.sizing.processor import parse_dtype
    from feedback.home import prepare_home

    prepare_home(home)
    ensure_first_policy(home, model, parse_dtype(dtype), echo, from_scratch=from_scratch)


def serve(
    vllm_arguments: VllmArguments = None,
    home: Home = DEFAULT_HOME,
    host: Annotated[str, typer.Option(help="Address to bind to.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    replica: Annotated[str, typer.Option(help="Name of this replica.")] = "replica-0",
    dtype: DtypeOption = "auto",
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Serve the live policy: the OpenAI-compatible endpoint and the feedback API."""
    from serving.engine.arguments import disable_compilation, prepare_environment

    prepare_environment()
    import uvloop

    from deploy.sizing.machine import tuning_here
    from deploy.sizing.processor import parse_dtype
    from deploy.sizing.tuning import LORA_RANK
    from serving.app import serve as run_serve
    from serving.engine.vllm_patches import fork_engine
    from serving.settings import ServingSettings

    _log_to_stderr()
    if LORA_RANK not in os.environ and (tuning := tuning_here(home)) is not None:
        os.environ |= tuning.serving_environment()
    settings = ServingSettings(
        home=home, host=host, port=port, replica=replica, dtype=parse_dtype(dtype)
    )
    if settings.enforce_eager:
        disable_compilation()
    fork_engine()
    uvloop.run(run_serve(settings))


def learn(
    home: Home = DEFAULT_HOME,
    metrics_port: Annotated[int, typer.Option(help="Port of the Prometheus metrics.")] = 8001,
    dtype: DtypeOption = "auto",
    tune: TuneOption = None,
    join: Annotated[
        bool,
        typer.Option(
            "--join",
            help="Only join the training runs of the learner at PLAUDIT_LEARNER_RENDEZVOUS.",
        ),
    ] = False,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Run the learner: follow the log, and train and publish new versions from its votes."""
    from learner.processes.joining import join as join_runs
    from learner.processes.machines import find_machines
    from learner.settings import LearnerSettings

    _log_to_stderr()
    stop = stop_on_signals()
    settings = LearnerSettings()
    machines = find_machines(settings, os.environ, join=join)
    if not machines.leads:
        return join_runs(home, settings, machines, stop)

    from deploy.sizing.machine import tuning_here
    from deploy.sizing.processor import parse_dtype
    from learner.cycle.service import run

    if tune is None and (tuning := tuning_here(home)) is not None:
        tune = tuning.tune
    options = drop_none(dtype=parse_dtype(dtype), metrics_port=metrics_port, tune=tune)
    run(home, LearnerSettings(**options), stop)


def config() -> None:
    """Print the effective settings of 'plaudit up' as JSON."""
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
