"""What keys, rate limits and quotas cost: chats with and without, interleaved.

    uv run python -m bench.keys --home .plaudit [--rounds 9]

Two servers of the same model run side by side, one with a hundred keys, of which the callers' has
a rate and a quota that are never reached, and one without any. They are driven in turn, in an
order that alternates. Before that: the time that letting one request in takes by itself.
"""

import argparse
import asyncio
import statistics
import tempfile
import timeit
from contextlib import ExitStack
from pathlib import Path

from bench.servers import free_port, machine, plaudit_serve, running
from bench.serving import load
from feedback.history import History
from feedback.identity import load_or_create_secret
from feedback.keys import make_key
from feedback.policies import publish_event
from feedback.sqlite_log import SqliteLog
from protos.plaudit.v1.policy_pb2 import Published
from protos.registry import Registry
from serving.access import Access
from serving.usage import Usage, usage_file

KEYS = 100


def new_home(folder: Path, model: Path, keys: int) -> str:
    """Make a home that serves a model, with so many keys; give the last one's token."""
    Registry(folder / "registry").publish(model, version=1, parent=0, base="bench")
    log = SqliteLog(folder / "log.db")
    publish_event(log, Published(version=1))
    history, token = History(log), ""
    for _ in range(keys):
        history.poll()
        _, token = make_key(log, history.keys, "user", by="bench", rate=1e6, quota=10**9)
    log.close()
    return token


def admitting(home: Path, token: str) -> float:
    """Give the microseconds that letting in a chat takes."""
    log = SqliteLog(home / "log.db")
    history = History(log)
    history.poll()
    secret, usage = load_or_create_secret(home / "secret.json"), Usage(usage_file(home))
    access = Access(secret, lambda: history.keys, usage)
    headers = [(b"authorization", f"Bearer {token}".encode()), (b"host", b"127.0.0.1:8000")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    times = timeit.repeat(lambda: access.admit(scope), number=10_000, repeat=7)
    usage.close()
    log.close()
    return min(times) / 10_000 * 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, default=Path(".plaudit"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    print(machine())
    model = Registry(options.home / "registry").path(1)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as servers:
        folder = Path(temporary)
        tokens = {
            name: new_home(folder / name, model, count)
            for name, count in (("without", 0), ("with", KEYS))
        }
        for name, token in tokens.items():
            print(f"letting one chat in, {name} keys: {admitting(folder / name, token):.1f} µs")
        urls = {}
        for name in tokens:
            port = free_port()
            urls[name] = f"http://127.0.0.1:{port}"
            command = plaudit_serve(folder / name, port, options.dtype)
            servers.enter_context(running(command, urls[name], "/readyz", folder / f"{name}.log"))
        print("clients   tokens/s without   with   with / without: median of rounds (least, most)")
        for clients in (1, 8, 32):
            compare(urls, tokens, clients, options.rounds)


def compare(urls: dict[str, str], tokens: dict[str, str], clients: int, rounds: int) -> None:
    """Print one row: both servers in turn, the first round thrown away."""
    rates: dict[str, list[float]] = {name: [] for name in urls}
    for number in range(rounds + 1):
        for name in sorted(urls, reverse=bool(number % 2)):
            rate, _ = asyncio.run(load(urls[name], clients, 3 * clients + 9, tokens[name]))
            if number:
                rates[name].append(rate)
    ratios = sorted(a / b for a, b in zip(rates["with"], rates["without"], strict=True))
    print(
        f"{clients:7}   {statistics.median(rates['without']):16.0f}   "
        f"{statistics.median(rates['with']):4.0f}   "
        f"{statistics.median(ratios):.3f} ({ratios[0]:.3f}, {ratios[-1]:.3f})",
        flush=True,
    )


if __name__ == "__main__":
    main()
