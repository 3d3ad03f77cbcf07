"""vLLM's arguments that users pass through, and those that would break recording or swapping.

Nothing here imports vLLM, so that `plaudit up` refuses an argument before it starts anything.
"""

import shlex
from collections.abc import Iterable, Sequence
from typing import Final

from serving.errors import ServingError

# Options by what speaks against them; the reason follows "--NAME is refused: ".
_REFUSALS: Final[dict[str, tuple[str, ...]]] = {
    "the weights come from the registry, and every replica serves one model under one name; use "
    "--home, or PLAUDIT_SERVING_MODEL_NAME for the name": (
        *("model", "model-tag", "served-model-name", "revision", "code-revision"),
        *("weight-transfer-config", "lora-modules", "default-mm-loras"),
    ),
    "the learner reads the model's own config.json, and would train another model than the one "
    "that is served; change the folder of the model instead": (
        *("hf-config-path", "hf-overrides", "model-class-overrides", "config-format"),
    ),
    "the learner and the records use the tokenizer in the model's folder; change it there": (
        *("tokenizer", "tokenizer-revision", "skip-tokenizer-init"),
    ),
    "a swap loads the safetensors files of the registry in place": ("load-format",),
    "swaps are done by Plaudit's own class in vLLM's workers": (
        *("worker-cls", "worker-extension-cls"),
    ),
    "records need the log-probabilities of the distribution that was sampled from": (
        "logprobs-mode",
    ),
    "the learner samples at the temperature in the model's generation_config.json, and answers "
    "that other defaults shaped are of no use off-policy; change that file, or send the parameter "
    "with each request": ("generation-config", "override-generation-config"),
    "what it does to the distribution of answers is not in their log-probabilities, so the records "
    "would be wrong": ("logits-processors", "watermark-config", "diffusion-config"),
    "a prompt without token ids cannot be recorded": ("enable-prompt-embeds",),
    "only models that generate text are served": ("runner", "convert", "pooler-config"),
    "it keeps key-value caches outside the engine, where those of the old policy would survive a "
    "swap": (
        *("kv-transfer-config", "ec-transfer-config", "kv-offloading-size"),
        *("kv-offloading-backend",),
    ),
    "a swap pauses and reloads one engine; start one replica for each copy of the model": (
        *("data-parallel-size", "data-parallel-rank", "data-parallel-start-rank"),
        *("data-parallel-size-local", "data-parallel-address", "data-parallel-rpc-port"),
        *("data-parallel-backend", "data-parallel-hybrid-lb", "data-parallel-external-lb"),
        *("data-parallel-multi-port-external-lb", "data-parallel-supervisor-port"),
        *("enable-elastic-ep", "api-server-count"),
    ),
    "Plaudit starts the workers itself; for several machines use '--distributed-executor-backend "
    "ray'": ("headless", "nnodes", "node-rank", "master-addr", "master-port"),
    "requests enter through Plaudit's own server, which records them and checks keys; see its "
    "settings": (
        *("host", "port", "uds", "api-key", "middleware", "root-path", "grpc", "grpc-port"),
        *("ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "ssl-cert-reqs", "ssl-ciphers"),
        *("enable-ssl-refresh", "uvicorn-log-level", "h11-max-incomplete-event-size"),
        *("h11-max-header-count", "tokens-only", "fingerprint-mode", "fingerprint-value"),
        *("enable-request-id-headers",),
    ),
    "adapters are switched on by PLAUDIT_SERVING_LORA_RANK, the largest rank to serve": (
        *("enable-lora", "max-lora-rank"),
    ),
    "a file could hold any argument; write the arguments themselves": ("config",),
}
REFUSED: Final = {name: reason for reason, names in _REFUSALS.items() for name in names}

# Abbreviations of refused arguments.
_SHORT: Final = {
    "-dp": "data-parallel-size",
    "-dpn": "data-parallel-rank",
    "-dpr": "data-parallel-start-rank",
    "-dpl": "data-parallel-size-local",
    "-dpa": "data-parallel-address",
    "-dpp": "data-parallel-rpc-port",
    "-dpb": "data-parallel-backend",
    "-dph": "data-parallel-hybrid-lb",
    "-dpe": "data-parallel-external-lb",
    "-dpm": "data-parallel-multi-port-external-lb",
    "-asc": "api-server-count",
    "-dc": "diffusion-config",
    "-n": "nnodes",
    "-r": "node-rank",
}
_PARALLEL: Final = {
    "--tensor-parallel-size": "tensor",
    "-tp": "tensor",
    "--pipeline-parallel-size": "pipeline",
    "-pp": "pipeline",
}


def split_arguments(text: str) -> list[str]:
    """Split a line of arguments as a shell does, and check their names.

    Raises:
        ServingError: A quotation is not closed, or an argument is refused.

    """
    try:
        arguments = shlex.split(text)
    except ValueError as error:
        raise ServingError(
            f"vLLM's arguments cannot be split ({error}); quote them as for a shell: {text}"
        ) from error
    check_names(_names(arguments))
    return arguments


def check_names(names: Iterable[str]) -> None:
    """Check that no argument is refused.

    Args:
        names: Names without dashes in front; `_` may stand for `-`.

    Raises:
        ServingError: One is refused; the message says which, and why.

    """
    for name in names:
        plain = name.replace("_", "-")
        reason = REFUSED.get(plain) or REFUSED.get(plain.removeprefix("no-"))
        if reason is not None:
            raise ServingError(f"vLLM's argument --{plain} is refused: {reason}")


def worker_count(arguments: Sequence[str]) -> int:
    """Return the number of workers that arguments ask for: tensor times pipeline parallel."""
    sizes = {"tensor": 1, "pipeline": 1}
    for position, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        kind = _PARALLEL.get(name.replace("_", "-"))
        if kind is not None:
            value = value or "".join(arguments[position + 1 : position + 2])
            sizes[kind] = int(value) if value.isdigit() else 1
    return sizes["tensor"] * sizes["pipeline"]


def _names(arguments: Iterable[str]) -> list[str]:
    """Return the names of options; a key within one (`--NAME.KEY`) belongs to its name."""
    flags = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    return [_SHORT.get(flag, flag.lstrip("-").partition(".")[0]) for flag in flags]
