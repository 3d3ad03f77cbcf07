"""The arguments that vLLM's server is started with."""

import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Final

from serving.settings import ServingSettings

# The ranks that vLLM 0.32 takes as the largest.
_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Adapters in one batch: the live one, the one on trial, and two whose last requests still run.
# Requests of a fifth would wait until one of them is done.
_ADAPTERS: Final = 4


def prepare_environment() -> None:
    """Set what vLLM reads from the environment; call before vLLM is imported."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    # The engine's worker in the engine's own process: one import of vLLM less to wait for.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    # As vLLM's own worker process does on a CPU: one core is left to the server.
    threads = max(1, len(os.sched_getaffinity(0)) - 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def engine_arguments(
    settings: ServingSettings, model: Path, gpu: bool, lora_rank: int = 0
) -> list[str]:
    """Return the command line of vLLM's OpenAI server.

    Args:
        settings: The replica's.
        model: Folder with full weights.
        gpu: Whether it runs on one.
        lora_rank: Largest rank of the adapters it is to take; 0 for none ever, which is faster.

    """
    arguments = [
        *("--model", str(model)),
        *("--served-model-name", settings.model_name),
        *("--dtype", settings.dtype),
        *("--host", settings.host),
        *("--port", str(settings.port)),
        *("--max-num-seqs", str(settings.max_num_seqs)),
        # Log-probabilities of the distribution sampled from: right as importance weights.
        *("--logprobs-mode", "processed_logprobs"),
        # Of the model's own sampling defaults the temperature alone: an answer that top-p or a
        # penalty had a part in is of no use off-policy.
        *("--generation-config", "vllm"),
        *("--override-generation-config", json.dumps({"temperature": temperature_of(model)})),
        *("--distributed-executor-backend", "uni"),
        *("--worker-extension-cls", "serving.engine.worker.PolicyWorker"),
        *("--shutdown-timeout", "5"),
        "--disable-fastapi-docs",
        "--disable-uvicorn-access-log",
        "--enable-prefix-caching",
    ]
    if lora_rank:
        largest = next(rank for rank in _RANKS if rank >= lora_rank)
        arguments += ["--enable-lora", "--max-lora-rank", str(largest)]
        arguments += ["--max-loras", str(_ADAPTERS), "--max-cpu-loras", str(2 * _ADAPTERS)]
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
    """Return the temperature at which a model folder says it wants to be sampled; else 1."""
    file = model / "generation_config.json"
    wanted = json.loads(file.read_text()) if file.is_file() else {}
    temperature = wanted.get("temperature") if wanted.get("do_sample") else None
    return float(temperature or 1.0)


def parse(arguments: list[str]) -> Namespace:
    """Parse as vLLM's own server does."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args: Namespace = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    validate_parsed_serve_args(args)
    return args
