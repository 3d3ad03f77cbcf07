"""Compare streamed tokens per second, time to first token and start-up with bare vLLM.

    uv run python -m bench.serving --home .plaudit [--rounds 5]

The servers take turns. Plaudit writes its records; vLLM's server computes no log-probabilities.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from bench.servers import bare_vllm, free_port, machine, plaudit_serve, running
from protos.checkpoints.folder_registry import FolderRegistry

TOKENS = 96


async def stream_chat(client: httpx.AsyncClient, url: str) -> tuple[float, int]:
    """Stream one chat with two choices; return the time to first token and the tokens."""
    body = {
        "model": "plaudit",
        "n": 2,
        "max_tokens": TOKENS,
        "stream": True,
        "ignore_eos": True,
        "messages": [{"role": "user", "content": "Tell me about the sea."}],
        "stream_options": {"include_usage": True},
    }
    start, first, tokens = time.perf_counter(), 0.0, 0
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            if not first and '"content":"' in line and '"content":""' not in line:
                first = time.perf_counter() - start
            if '"usage":{' in line:
                tokens = json.loads(line[6:])["usage"]["completion_tokens"]
    return first, tokens


async def load(url: str, clients: int, requests: int, key: str = "") -> tuple[float, float]:
    """Run the requests; return tokens per second and the median time to first token in seconds."""
    limits = httpx.Limits(max_connections=clients)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(timeout=120, limits=limits, headers=headers) as client:
        gate = asyncio.Semaphore(clients)

        async def gated() -> tuple[float, int]:
            async with gate:
                return await stream_chat(client, url)

        start = time.perf_counter()
        results = await asyncio.gather(*(gated() for _ in range(requests)))
        seconds = time.perf_counter() - start
    return sum(t for _, t in results) / seconds, statistics.median(f for f, _ in results)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, default=Path(".plaudit"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    print(machine())
    registry = FolderRegistry(options.home / "registry")
    model = registry.path(registry.versions()[-1])
    logs = Path(tempfile.mkdtemp())
    bare_url, our_url = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    bare_port, our_port = (int(u.rpartition(":")[2]) for u in (bare_url, our_url))
    bare = bare_vllm(model, bare_port, options.dtype)
    ours = plaudit_serve(options.home, our_port, options.dtype)
    with (
        running(bare, bare_url, "/health", logs / "bare.log") as bare_up,
        running(ours, our_url, "/readyz", logs / "ours.log") as our_up,
    ):
        print(f"start-up: vLLM {bare_up:.1f} s, plaudit serve {our_up:.1f} s")
        print("clients  vLLM tok/s (min)   Plaudit tok/s (min)   ratio   TTFT vLLM / Plaudit ms")
        for clients in (1, 8, 32):
            compare(bare_url, our_url, clients, options.rounds)


def compare(bare_url: str, our_url: str, clients: int, rounds: int) -> None:
    """Print one row: both servers take turns, and the first round warms up."""
    rates: dict[str, list[float]] = {bare_url: [], our_url: []}
    firsts: dict[str, list[float]] = {bare_url: [], our_url: []}
    for i in range(rounds + 1):
        for url in (bare_url, our_url) if i % 2 else (our_url, bare_url):
            rate, first = asyncio.run(load(url, clients, max(2 * clients, 6)))
            if i:
                rates[url].append(rate)
                firsts[url].append(first * 1000)
    (b, o), (fb, fo) = rates.values(), firsts.values()
    ratio = statistics.median(o) / statistics.median(b)
    print(
        f"{clients:7d}  {statistics.median(b):9.0f} ({min(b):.0f})   "
        f"{statistics.median(o):9.0f} ({min(o):.0f})   {ratio:9.2f}   "
        f"{statistics.median(fb):.0f} / {statistics.median(fo):.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
