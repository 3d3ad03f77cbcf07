"""Make the first policy: train it here, or import it from a package or from the user."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from deploy.errors import DeployError
from deploy.local.processes import plaudit_command
from feedback.control.policies import append_policy_event, current_state
from feedback.log.opening import open_log
from protos.checkpoints.shared_registry import open_registry
from protos.plaudit.v1.policy_pb2 import Published

FIRST_VERSION = 1


def ensure_first_policy(home: Path, model: str, dtype: str, echo: Callable[[str], None]) -> None:
    """Publish version 1 unless it is published already.

    If it is killed, the next call continues where it stopped.

    Args:
        home: Home folder of the installation.
        model: `default`, `smollm2`, or the folder or id of a Hugging Face model.
        dtype: Number format to train in.
        echo: Prints a line.

    Raises:
        DeployError: The home contains another model, or the first policy could not be made.

    """
    registry = open_registry(home)
    if FIRST_VERSION in registry.versions():
        base = registry.manifest(FIRST_VERSION).base
        if model != "default" and base != model:
            raise DeployError(
                f"{home} contains policies of '{base}', not of '{model}'; "
                "choose another folder with --home"
            )
    else:
        registry.publish(
            _first_model(home, model, dtype, echo), version=FIRST_VERSION, parent=0, base=model
        )
    log = open_log(home)
    try:
        if FIRST_VERSION not in current_state(log).published:
            append_policy_event(log, Published(version=FIRST_VERSION, parent=0))
    finally:
        log.close()


def _first_model(home: Path, model: str, dtype: str, echo: Callable[[str], None]) -> Path:
    models = home / "models"
    if model == "default":
        echo("First run: training the default model, which takes about three minutes on two cores.")
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
