"""`plaudit up`: make the first policy, then run and supervise serving and the learner."""

import os
import threading
import time
from collections.abc import Callable

import httpx
from filelock import FileLock, Timeout

from deploy.errors import DeployError
from deploy.local.addresses import local_url, port_problem, url_of
from deploy.local.bootstrap import FIRST_VERSION, ensure_first_policy
from deploy.local.processes import Child, plaudit_command, stop_all, stop_on_signals
from deploy.settings import UpSettings
from deploy.sizing.costs import COSTS_VARIABLE, SMOLLM2_SHAPE, costs, suggest_model
from deploy.sizing.machine import (
    default_shape,
    first_shape,
    plan_here,
    serving_workers,
    shape_of,
    this_machine,
)
from deploy.sizing.plan import Plan
from deploy.sizing.processor import Dtype, parse_dtype
from deploy.sizing.tuning import Tuning, tuning_of
from feedback.control.history import History
from feedback.home import prepare_home
from feedback.opening import open_log
from feedback.registry import open_registry
from learner.settings import LearnerSettings
from learner.sizing import ModelShape
from serving.services import require_valid_key

_CHECK_SECONDS = 0.5


def check_address(settings: UpSettings) -> None:
    """Check that both ports are free.

    Raises:
        DeployError: A port cannot be bound; the message says what to do.

    """
    for port, option in ((settings.port, "--port"), (settings.learner_port, "--learner-port")):
        if reason := port_problem(settings.host, port):
            raise DeployError(f"{reason}; choose another port with {option}")


def children(settings: UpSettings, dtype: str, planned: Plan, tuning: Tuning) -> list[Child]:
    """Return the processes to run: serving and the learner, placed by the plan."""
    logs = settings.home / "logs"
    home = str(settings.home)
    serve = ["serve", "--home", home, "--host", settings.host, "--port", str(settings.port)]
    learn = ["learn", "--home", home, "--metrics-port", str(settings.learner_port)]
    return [
        Child(
            "serving",
            plaudit_command(*serve, "--dtype", dtype),
            logs / "serving.log",
            # The user's own values take precedence.
            {
                k: os.environ.get(k, v)
                for k, v in {
                    **planned.serving_environment,
                    **tuning.serving_environment(),
                    COSTS_VARIABLE: costs(settings.model, planned),
                    "PLAUDIT_SERVING_LOCAL_ROLE": settings.local_role,
                }.items()
            },
        ),
        Child(
            "learner",
            plaudit_command(*learn, "--dtype", dtype, "--tune", tuning.tune),
            logs / "learner.log",
            planned.learner_environment,
            niceness=5,  # people who chat come first
        ),
    ]


def needs_key(settings: UpSettings) -> bool | None:
    """Return whether the endpoint requires an API key, or None while it is not ready."""
    url = local_url(settings.host, settings.port)
    try:
        ready = httpx.get(f"{url}/readyz", timeout=2).status_code
        if ready == 401:  # closed, and answered only once the policy is loaded
            return True
        if ready != 200:
            return None
        return httpx.get(f"{url}/v1/me", timeout=2).status_code == 401
    except httpx.HTTPError:
        return None


def up(settings: UpSettings, echo: Callable[[str], None]) -> None:
    """Run until SIGINT or SIGTERM, then stop everything.

    Raises:
        DeployError: Plaudit cannot start; the message says what to do.
        HomeUnusable: The home folder cannot be created or written.
        LogError: The log cannot be reached, or its topics would lose records.
        ServingError: Other machines can reach the address, but there is no valid API key; or an
            argument of vLLM is refused.

    """
    prepare_home(settings.home)
    lock = FileLock(settings.home / "up.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DeployError(f"another 'plaudit up' is running on {settings.home}") from error
    with lock:
        _run(settings, echo)


def _run(settings: UpSettings, echo: Callable[[str], None]) -> None:
    dtype = parse_dtype(settings.dtype)
    check_address(settings)
    serving_workers()  # refuses an argument of vLLM at once, not after training
    log = open_log(settings.home)  # fails at once on a wrong address, not after training
    history = History(log)
    history.poll()
    log.close()
    require_valid_key(settings.host, history, settings.home)
    planned = _first_policy(settings, dtype, echo)
    stop = stop_on_signals()
    tuning = tuning_of(settings.home, planned.tune)
    processes = children(settings, dtype, planned, tuning)
    echo(f"Starting serving and the learner in {dtype}; this takes ten seconds to a minute.")
    echo(f"The learner trains {'adapters (LoRA)' if tuning.tune == 'lora' else 'all weights'}.")
    started = time.monotonic()
    try:
        for process in processes:
            process.start()
        _supervise(settings, processes, stop, started, echo)
    finally:
        echo("Stopping. Answers in progress are finished, or recorded as far as they got.")
        stop_all(processes, echo)
        echo("Stopped. 'plaudit up' continues from here.")


def _first_policy(settings: UpSettings, dtype: Dtype, echo: Callable[[str], None]) -> Plan:
    """Print what the model costs here, make the first policy if needed, and return the plan."""
    shape, first_start = first_shape(settings.home), False
    if shape is None:
        shape, first_start = _known_shape(settings), True
    if shape is not None:
        planned = plan_here(shape, dtype, settings.tune, settings.home)
        echo("\n".join([*planned.lines(), costs(settings.model, planned)]))
    ensure_first_policy(
        settings.home, settings.model, dtype, echo, from_scratch=settings.from_scratch
    )
    if shape is None:
        shape = shape_of(open_registry(settings.home).path(FIRST_VERSION))
        planned = plan_here(shape, dtype, settings.tune, settings.home)
        echo("\n".join([*planned.lines(), costs(settings.model, planned)]))
    if first_start and settings.model == "default":
        suggestion = suggest_model(this_machine(), dtype, LearnerSettings())
        if suggestion is not None:
            echo(suggestion)
    return planned


def _known_shape(settings: UpSettings) -> ModelShape | None:
    """Return the shape of a model before its first start; None if it is not known before."""
    if settings.model == "smollm2":
        return SMOLLM2_SHAPE
    return default_shape() if settings.model == "default" and not settings.from_scratch else None


def _supervise(
    settings: UpSettings,
    processes: list[Child],
    stop: threading.Event,
    started: float,
    echo: Callable[[str], None],
) -> None:
    serving = processes[0]
    was_ready = False
    while not stop.wait(_CHECK_SECONDS):
        for process in processes:
            process.check(echo)
        if serving.process is None:
            was_ready = False
        elif not was_ready and (keyed := needs_key(settings)) is not None:
            was_ready = True
            _print_welcome(settings, keyed, time.monotonic() - max(started, serving.started), echo)


def _print_welcome(
    settings: UpSettings, keyed: bool, seconds: float, echo: Callable[[str], None]
) -> None:
    url = url_of(settings.host, settings.port)
    echo(
        f"Ready after {seconds:.0f} s: an OpenAI-compatible endpoint at {url}/v1 (model 'plaudit')."
    )
    echo("Next, in another terminal:")
    if keyed:
        echo("  export PLAUDIT_API_KEY=…     # from 'plaudit keys create'")
    echo(f"  curl {url}/v1/chat/completions -H 'content-type: application/json' \\")
    if keyed:
        echo('    -H "Authorization: Bearer $PLAUDIT_API_KEY" \\')
    echo("""    -d '{"model":"plaudit","n":2,"messages":[{"role":"user","content":"Hello!"}]}'""")
    echo(f"  uv run --no-sync plaudit simulate --preference concise --comparisons 400 --url {url}")
    echo(f"Log files: {settings.home}/logs. Ctrl-C stops everything; nothing is lost.")
