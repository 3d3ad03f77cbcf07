"""The command line and environment that vLLM's server is started with."""

import json
import os
from pathlib import Path
from typing import Final

from serving.engine.vllm_patches import LORA_RANKS
from serving.settings import ServingSettings

# Adapters in one batch: the live one, the one on trial, and two whose last requests still run.
# Requests for a fifth wait until one of them is done.
_ADAPTERS: Final = 4


def prepare_environment() -> None:
    """Set the environment variables of vLLM; call this before vLLM is imported."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    # Run the worker in the engine's process, which saves importing vLLM once more.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    # Leave one core to the server, as vLLM's own worker process does on a CPU.
    threads = max(1, len(os.sched_getaffinity(0)) - 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def engine_arguments(
    settings: ServingSettings, model: Path, gpu: bool, lora_rank: int = 0
) -> list[str]:
    """Return the command line of vLLM's OpenAI server.

    Args:
        settings: Settings of the replica.
        model: Folder with full weights.
        gpu: Whether the engine runs on a GPU.
        lora_rank: Largest rank of the adapters to serve; 0 to serve none, which is faster.

    """
    return [
        *("--model", str(model)),
        *("--served-model-name", settings.model_name),
        *("--dtype", settings.dtype),
        *("--host", settings.host),
        *("--port", str(settings.port)),
        *("--max-num-seqs", str(settings.max_num_seqs)),
        # Log-probabilities of the distribution that is sampled from, as importance weights need.
        *("--logprobs-mode", "processed_logprobs"),
        # Take only the temperature from the model's sampling defaults: answers that top-p or a
        # penalty shaped are of no use off-policy.
        *("--generation-config", "vllm"),
        *("--override-generation-config", json.dumps({"temperature": temperature_of(model)})),
        *("--distributed-executor-backend", "uni"),
        *("--worker-extension-cls", "serving.engine.worker.PolicyWorker"),
        *("--shutdown-timeout", "5"),
        "--disable-fastapi-docs",
        "--disable-uvicorn-access-log",
        "--enable-prefix-caching",
        *_adapter_arguments(lora_rank),
        *_capacity_arguments(settings, gpu),
    ]


def _adapter_arguments(lora_rank: int) -> list[str]:
    if not lora_rank:
        return []
    largest = next(rank for rank in LORA_RANKS if rank >= lora_rank)
    return [
        *("--enable-lora", "--max-lora-rank", str(largest)),
        *("--max-loras", str(_ADAPTERS), "--max-cpu-loras", str(2 * _ADAPTERS)),
    ]


def _capacity_arguments(settings: ServingSettings, gpu: bool) -> list[str]:
    arguments = []
    if settings.max_model_len is not None:
        arguments += ["--max-model-len", str(settings.max_model_len)]
    if settings.enforce_eager:
        arguments.append("--enforce-eager")
    if gpu:
        arguments += ["--gpu-memory-utilization", str(settings.gpu_memory_share)]
    else:
        arguments += ["--kv-cache-memory-bytes", str(int(settings.kv_cache_gib * 2**30))]
    return arguments


def temperature_of(model: Path) -> float:
    """Return the sampling temperature that a model folder asks for; 1 by default."""
    file = model / "generation_config.json"
    config = json.loads(file.read_text()) if file.is_file() else {}
    temperature = config.get("temperature") if config.get("do_sample") else None
    return float(temperature or 1.0)
