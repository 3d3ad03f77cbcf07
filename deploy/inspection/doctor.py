"""`plaudit doctor`: what 'plaudit up' would run on, a finding a check, and what to do about it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import httpx

from deploy.errors import DeployError
from deploy.inspection.findings import Finding
from deploy.inspection.stores import (
    LogState,
    check_clock,
    check_registry,
    first_policy_folder,
    nearest_existing,
)
from deploy.local.addresses import LOCAL, local_url, port_problem, url_of
from deploy.settings import UpSettings
from deploy.sizing.machine import default_shape, plan_here, shape_of
from deploy.sizing.model_checks import check_architecture, check_chat, check_config
from deploy.sizing.plan import GIB, PROGRAM_BYTES, Plan
from deploy.sizing.processor import best_dtype, cpu_flags
from feedback.control.keys import KeyRing, key_create_command, no_valid_key_message
from serving.http.access import is_loopback

_FEW_VERSIONS: Final = 20  # for which there should be room on the disk


def examine(settings: UpSettings) -> Iterator[Finding]:
    """Check one thing after the other; one that fails is a problem found, and the others go on."""
    home, host, learner = settings.home, settings.host, settings.learner_port
    running, first = is_plaudit(host, settings.port), first_policy_folder(home)
    records = LogState()
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("processor", lambda: check_processor(settings.dtype, cpu_flags(), cores())),
        (
            "memory",
            lambda: check_memory(
                lambda: _plan(settings, first), None if running else available_memory()
            ),
        ),
        ("disk", lambda: check_disk(home, _size(first))),
        ("port", lambda: check_port(host, settings.port, "--port", running)),
        ("port", lambda: check_port(LOCAL, learner, "--learner-port", is_learner(learner))),
        ("log", lambda: records.check(home)),
        ("registry", lambda: check_registry(home, records.live)),
        ("clock", lambda: check_clock(home, records.log)),
        ("model", lambda: check_model(settings.model, first)),
        ("keys", lambda: check_keys(host, records.keys, home)),
    )
    for check, find in checks:
        yield run_check(check, find)
    records.close()


def run_check(check: str, find: Callable[[], Finding]) -> Finding:
    """Return what a check finds, or that it failed."""
    try:
        return find()
    except Exception as error:  # noqa: BLE001  it is for what nobody foresaw
        text = f"it cannot be checked: {type(error).__name__}: {error}"
        return Finding("problem", check, text, "mend that, then run this again")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def check_processor(dtype: str, flags: frozenset[str], cores: int) -> Finding:
    """Look at the cores and at the number format."""
    best = best_dtype(flags)
    has = "has" if best == "bfloat16" else "has no"
    text = f"{cores} cores, {best if dtype == 'auto' else dtype}: it {has} bfloat16 instructions"
    if dtype == "bfloat16" and best == "float32":
        advice = "leave PLAUDIT_DTYPE at auto: bfloat16 is emulated here, at a third of the speed"
        return Finding("warning", "processor", text, advice)
    if cores == 1:
        advice = "chats and learning take turns on one core: use a machine with two or more"
        return Finding("warning", "processor", text, advice)
    return Finding("ok", "processor", text)


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the bytes that programs can have now."""
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise DeployError(f"{meminfo} does not say what memory is available")


def check_memory(planned: Callable[[], Plan], available: int | None) -> Finding:
    """Hold the plan against the machine, and against what is free (None: it runs already)."""
    try:
        plan = planned()
    except DeployError as error:
        advice = "take a smaller model or a larger machine; --tune lora needs less"
        return Finding("problem", "memory", str(error).splitlines()[-1], advice)
    on_gpu = plan.gpu_share is not None
    need = PROGRAM_BYTES + (0 if on_gpu else plan.serving + plan.cache + plan.learner)
    text = f"it needs about {need / GIB:.1f} GiB"
    if available is None or available >= need:
        return Finding("ok", "memory", f"{text}; {plan.place}")
    return Finding(
        "warning",
        "memory",
        f"{text}, and {available / GIB:.1f} GiB are free now",
        "stop other programs first, or parts of Plaudit may be killed",
    )


def check_disk(home: Path, version_bytes: int) -> Finding:
    """Look whether there is room for versions to come."""
    there = nearest_existing(home)
    free = shutil.disk_usage(there).free
    text = f"{free / GIB:.1f} GiB are free in {there}; a version takes {version_bytes / GIB:.2f}"
    advice = "make room, or delete old versions: plaudit policies prune"
    if free < GIB or free < 3 * version_bytes:
        return Finding("problem", "disk", text, advice)
    if free < _FEW_VERSIONS * version_bytes:
        return Finding("warning", "disk", text, advice)
    return Finding("ok", "disk", text)


def is_plaudit(host: str, port: int) -> bool:
    """Tell whether Plaudit answers there."""
    try:
        return "status" in httpx.get(f"{local_url(host, port)}/livez", timeout=2).json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return False


def is_learner(port: int) -> bool:
    """Tell whether a learner's metrics are there."""
    try:
        return "plaudit_learner" in httpx.get(f"{url_of(LOCAL, port)}/metrics", timeout=2).text
    except httpx.HTTPError:
        return False


def check_port(host: str, port: int, option: str, running: bool) -> Finding:
    """Look whether a port is free, or taken by the Plaudit that runs."""
    reason = port_problem(host, port)
    if reason is None:
        return Finding("ok", "port", f"{host}:{port} is free")
    if running:
        return Finding("ok", "port", f"{host}:{port} is taken; Plaudit runs here")
    return Finding("problem", "port", reason, f"choose another with {option}")


def check_model(model: str, folder: Path | None) -> Finding:
    """Look whether the first policy can be served: its configuration, chat template, architecture.

    Args:
        folder: Of version 1; None before the first start.

    """
    if folder is None:
        if model == "default":
            return Finding("ok", "model", "the default model is trained on the first start")
        if not Path(model).is_dir():
            text = f"'{model}' is no folder here, so it is fetched on the first start"
            return Finding("warning", "model", text, "plaudit import-model tries it beforehand")
        folder = Path(model)
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(folder)
        check_config(str(folder), config)
        check_chat(str(folder), AutoTokenizer.from_pretrained(folder))
        architecture = (config.architectures or [""])[0]
        check_architecture(str(folder), architecture)
    except (DeployError, OSError, ValueError) as error:
        return Finding("problem", "model", str(error), "give another with --home and --model")
    except ImportError as error:
        return Finding("problem", "model", f"vLLM cannot be used: {error}", "install it: uv sync")
    return Finding("ok", "model", f"vLLM serves {architecture}, and its chat template works")


def check_keys(host: str, keys: KeyRing | None, home: Path) -> Finding:
    """Look who can reach the endpoint, and whether they need keys (None: it cannot be told)."""
    if keys is None:
        text = "not known, since the log cannot be read"
        return Finding("warning", "keys", text, "mend the log, then run this again")
    if not is_loopback(host) and not keys.usable:
        text, _, advice = no_valid_key_message(keys, host, home).partition("\n")
        return Finding("problem", "keys", text, advice)
    if not keys.required:
        text = f"none, and none needed: only this machine reaches {host}"
        return Finding("ok", "keys", text)
    valid = [key for key in keys.keys.values() if key.revoked_ms is None]
    if not any(key.role == "operator" for key in valid):
        text = "no valid key is an operator's: nobody can roll back over HTTP"
        return Finding("warning" if valid else "problem", "keys", text, key_create_command(home))
    return Finding("ok", "keys", f"{len(valid)} valid, of {len(keys.keys)} made")


def _plan(settings: UpSettings, first: Path | None) -> Plan:
    if first is not None:
        shape = shape_of(first)
    elif Path(settings.model).is_dir():
        shape = shape_of(Path(settings.model))
    else:
        shape = default_shape()
    dtype = settings.dtype if settings.dtype != "auto" else best_dtype(cpu_flags())
    return plan_here(shape, dtype, settings.tune)


def _size(folder: Path | None) -> int:
    if folder is None:
        return 4 * default_shape().parameters
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
