"""Measure the pause that streaming clients see in a swap, relative to the usual gap of chunks.

    uv run python -m bench.swap --home HOME [--swaps 10]

Streams run continuously while new versions are published. The longest gap of each stream around
each swap is compared with the gaps of the same streams between swaps. The benchmark runs on a copy
of HOME's first version and does not change HOME.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from bench.servers import free_port, machine, plaudit_serve, running
from feedback.control.policies import append_policy_event
from feedback.log.sqlite_log import SqliteLog
from feedback.registry import home_registry
from protos.plaudit.v1.policy_pb2 import PolicyEvent, Published

Gaps = list[tuple[float, float]]  # time of a chunk, seconds since the previous one


async def gaps(url: str, stop: asyncio.Event, seen: Gaps) -> int:
    """Stream answers until `stop` is set, append the gap before each chunk, return the failures."""
    failures = 0
    async with httpx.AsyncClient(timeout=120) as client:
        while not stop.is_set():
            body = {
                "model": "plaudit",
                "n": 2,
                "max_tokens": 300,
                "stream": True,
                "ignore_eos": True,
                "messages": [{"role": "user", "content": "Tell me about the sea."}],
            }
            last, finishes = 0.0, 0
            async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        now = time.time()
                        if last:
                            seen.append((now, now - last))
                        last = now
                        finishes += '"finish_reason":"' in line
            failures += finishes != 2
    return failures


async def measure(url: str, home: Path, swaps: int, streams: int) -> None:
    registry, log = home_registry(home), SqliteLog(home / "log.db")
    for version in range(2, 2 + swaps):
        registry.publish(registry.path(1), version=version, parent=version - 1, base="bench")
    seen: list[Gaps] = [[] for _ in range(streams)]
    stop = asyncio.Event()
    tasks = [asyncio.create_task(gaps(url, stop, stream)) for stream in seen]
    await asyncio.sleep(5)
    for version in range(2, 2 + swaps):
        append_policy_event(log, Published(version=version, parent=version - 1))
        await asyncio.sleep(3)
    stop.set()
    failures = sum(await asyncio.gather(*tasks))
    events = (PolicyEvent.FromString(r.value) for r in log.read("policies", {}))
    swapped = [e for e in events if e.HasField("swapped") and e.swapped.version > 1]
    report(seen, swapped, failures)


def report(seen: list[Gaps], swapped: list[PolicyEvent], failures: int) -> None:
    times = [e.created_ms / 1000 for e in swapped]
    usual = sorted(g for stream in seen for t, g in stream if all(abs(t - s) > 1 for s in times))
    longest = [
        max((g for t, g in stream if abs(t - s) < 1), default=0) for stream in seen for s in times
    ]
    typical, p99 = statistics.median(usual), usual[int(0.99 * len(usual))]
    beyond = sorted(x - typical for x in longest)
    paused = sorted(e.swapped.pause_seconds for e in swapped)
    print(f"{len(swapped)} swaps under {len(seen)} streams (n=2), {failures} failed requests")
    print(f"usual gap: median {typical * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms")
    print(
        f"each stream's longest gap around each swap ({len(beyond)}), beyond the usual: "
        f"median {statistics.median(beyond) * 1000:.0f} ms, "
        f"p99 {beyond[int(0.99 * len(beyond))] * 1000:.0f} ms, max {beyond[-1] * 1000:.0f} ms"
    )
    print(
        f"engine paused: median {statistics.median(paused) * 1000:.0f} ms, "
        f"max {paused[-1] * 1000:.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, default=Path(".plaudit"))
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    print(machine())
    home = Path(tempfile.mkdtemp())
    source = home_registry(options.home).path(1)
    home_registry(home).publish(source, version=1, parent=0, base="bench")
    log = SqliteLog(home / "log.db")
    append_policy_event(log, Published(version=1, parent=0))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running(plaudit_serve(home, port, options.dtype), url, "/readyz", home / "serve.log"):
        asyncio.run(measure(url, home, options.swaps, options.streams))


if __name__ == "__main__":
    main()
