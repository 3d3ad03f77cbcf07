"""Make the first policy: train it here, or import it from a package or from the user."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from deploy.errors import DeployError
from deploy.local.processes import plaudit_command
from deploy.sizing.models import default_model
from feedback.control.policies import append_policy_event, current_state
from feedback.opening import open_log
from feedback.registry import open_registry
from protos.plaudit.v1.policy_pb2 import Published

FIRST_VERSION = 1


def ensure_first_policy(
    home: Path,
    model: str,
    dtype: str,
    echo: Callable[[str], None],
    *,
    from_scratch: bool = False,
) -> None:
    """Publish version 1 unless it is published already.

    If it is killed, the next call continues where it stopped.

    Args:
        home: Home folder of the installation.
        model: `default`, `smollm2`, or the folder or id of a Hugging Face model.
        dtype: Number format to train in.
        echo: Prints a line.
        from_scratch: Train a default model from random weights instead of using the shipped one.

    Raises:
        DeployError: `from_scratch` is given with a model of one's own, the home contains another
            model, or the first policy could not be made.

    """
    if from_scratch and model != "default":
        raise DeployError(
            f"--from-scratch trains the default model, but --model is '{model}'; leave one out"
        )
    registry = open_registry(home)
    if FIRST_VERSION in registry.versions():
        base = registry.manifest(FIRST_VERSION).base
        if model != "default" and base != model:
            raise DeployError(
                f"{home} contains policies of '{base}', not of '{model}'; "
                "choose another folder with --home"
            )
        if from_scratch and not (home / "models" / "pretrained").exists():
            raise DeployError(
                f"{home} has a first policy already, so nothing is trained from scratch; "
                "choose another folder with --home"
            )
    else:
        folder = _first_model(home, model, dtype, echo, from_scratch=from_scratch)
        registry.publish(folder, version=FIRST_VERSION, parent=0, base=model, keyed_split=True)
    log = open_log(home)
    try:
        if FIRST_VERSION not in current_state(log).published:
            append_policy_event(log, Published(version=FIRST_VERSION, parent=0))
    finally:
        log.close()


def _first_model(
    home: Path, model: str, dtype: str, echo: Callable[[str], None], *, from_scratch: bool
) -> Path:
    models = home / "models"
    if model == "default" and not from_scratch:
        echo("First run: the default model is included, so nothing is trained now.")
        return default_model()
    if model == "default":
        echo("First run: training a small model from random weights, in about five minutes.")
        _run(["pretrain", "--out", str(models / "pretrained"), "--dtype", dtype])
        pretrained = str(models / "pretrained")
        _run(["sft", "--model", pretrained, "--out", str(models / "sft"), "--dtype", dtype])
    else:
        echo(f"First run: importing {model}.")
        _run(["import-model", model, "--out", str(models / "sft")])
    return models / "sft"


def _run(arguments: list[str]) -> None:
    """Run a `plaudit` command that shows its progress in this terminal."""
    if subprocess.run(plaudit_command(*arguments), check=False).returncode != 0:
        raise DeployError(f"'plaudit {arguments[0]}' failed; see its message above")
