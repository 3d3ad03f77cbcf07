"""The first policy: trained here, taken from a package, or brought by its user."""

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
    """Make sure that version 1 is published; train or fetch it if not.

    Every step can be killed and is taken up where it stopped.

    Raises:
        DeployError: The home holds another model, or the first policy could not be made.

    """
    registry = open_registry(home)
    if FIRST_VERSION in registry.versions():
        base = registry.manifest(FIRST_VERSION).base
        if model != "default" and base != model:
            raise DeployError(
                f"{home} holds policies of '{base}', not of '{model}': "
                "give another folder with --home"
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
        echo("First run: training the default model, about three minutes on two cores.")
        _run(["pretrain", "--out", str(models / "pretrained"), "--dtype", dtype])
        pretrained = str(models / "pretrained")
        _run(["sft", "--model", pretrained, "--out", str(models / "sft"), "--dtype", dtype])
    else:
        echo(f"First run: bringing in {model}.")
        _run(["import-model", model, "--out", str(models / "sft")])
    return models / "sft"


def _run(arguments: list[str]) -> None:
    """Run a `plaudit` command in the terminal, so that its progress is seen."""
    if subprocess.run(plaudit_command(*arguments), check=False).returncode != 0:
        raise DeployError(f"'plaudit {arguments[0]}' failed; its message stands above")
