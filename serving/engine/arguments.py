"""The command line and environment that vLLM's server is started with."""

import json
import math
import os
from argparse import Namespace
from pathlib import Path
from typing import Final

from serving.engine.vllm_patches import LORA_RANKS
from serving.settings import ServingSettings

# Adapters in one batch: the live one, the one on trial, and two whose last requests still run.
# Requests for a fifth wait until one of them is done.
_ADAPTERS: Final = 4
# Answers decoded at once on a CPU; on a GPU vLLM knows a better number for each model of GPU.
_CPU_SEQUENCES: Final = 64
_NOTHING: Final = Namespace()


def prepare_environment() -> None:
    """Set the environment variables of vLLM; call this before vLLM is imported."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    # Otherwise an allowed host could redirect to any other.
    os.environ.setdefault("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "0")
    # Run the worker in the engine's process, which saves importing vLLM once more.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    # Leave one core to the server, as vLLM's own worker process does on a CPU.
    threads = max(1, len(os.sched_getaffinity(0)) - 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def disable_compilation() -> None:
    """Keep vLLM's sampler uncompiled too; call this before vLLM is imported.

    vLLM 0.32 compiles it in eager mode as well, while the first answer waits: for 2 to 30 seconds.
    """
    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")


def engine_arguments(
    settings: ServingSettings,
    model: Path,
    gpu: bool,
    lora_rank: int = 0,
    given: Namespace = _NOTHING,
) -> list[str]:
    """Return the command line of vLLM's OpenAI server, without the arguments of the user.

    Args:
        settings: Settings of the replica.
        model: Folder with full weights.
        gpu: Whether the engine runs on a GPU.
        lora_rank: Largest rank of the adapters to serve; 0 to serve none, which is faster.
        given: Arguments of the user, which follow these; they replace those of the same name.

    """
    return [
        *("--model", str(model)),
        *("--served-model-name", settings.model_name),
        *("--dtype", settings.dtype),
        *("--host", settings.host),
        *("--port", str(settings.port)),
        # Log-probabilities of the distribution that is sampled from, as importance weights need.
        *("--logprobs-mode", "processed_logprobs"),
        # Take only the temperature from the model's sampling defaults: answers that top-p or a
        # penalty shaped are of no use off-policy.
        *("--generation-config", "vllm"),
        *("--override-generation-config", json.dumps({"temperature": temperature_of(model)})),
        *("--distributed-executor-backend", "mp" if _workers(given) > 1 else "uni"),
        *("--worker-extension-cls", "serving.engine.worker.PolicyWorker"),
        *("--shutdown-timeout", "5"),
        # vLLM takes an empty list to mean any host, and the name below can belong to none.
        *("--allowed-media-domains", *(settings.media_domains or ("none.invalid",))),
        "--disable-fastapi-docs",
        "--disable-uvicorn-access-log",
        "--enable-prefix-caching",
        *_adapter_arguments(lora_rank),
        *_capacity_arguments(settings, gpu, given),
    ]


def _workers(given: Namespace) -> int:
    sizes = (getattr(given, f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline"))
    return math.prod(sizes)


def _adapter_arguments(lora_rank: int) -> list[str]:
    if not lora_rank:
        return []
    largest = next(rank for rank in LORA_RANKS if rank >= lora_rank)
    return [
        *("--enable-lora", "--max-lora-rank", str(largest)),
        *("--max-loras", str(_ADAPTERS), "--max-cpu-loras", str(2 * _ADAPTERS)),
    ]


def _capacity_arguments(settings: ServingSettings, gpu: bool, given: Namespace) -> list[str]:
    """Return the arguments that decide what fits; unset ones go by the model and the device."""
    longest = "auto" if settings.max_model_len is None else str(settings.max_model_len)
    arguments = ["--max-model-len", longest]
    sequences = settings.max_num_seqs or (None if gpu else _CPU_SEQUENCES)
    if sequences is not None:
        arguments += ["--max-num-seqs", str(sequences)]
    if settings.enforce_eager:
        arguments.append("--enforce-eager")
    if hasattr(given, "kv_cache_memory_bytes") or hasattr(given, "gpu_memory_utilization"):
        return arguments  # one of the two would take precedence over the other
    if gpu:
        return [*arguments, "--gpu-memory-utilization", str(settings.gpu_memory_share)]
    return [*arguments, "--kv-cache-memory-bytes", str(int(settings.kv_cache_gib * 2**30))]


def temperature_of(model: Path) -> float:
    """Return the sampling temperature that a model folder asks for; 1 by default."""
    file = model / "generation_config.json"
    config = json.loads(file.read_text()) if file.is_file() else {}
    temperature = config.get("temperature") if config.get("do_sample") else None
    return float(temperature or 1.0)
