"""Measure the cost of keys, rate limits and quotas.

    uv run python -m bench.keys --home .plaudit [--rounds 9] [--clients 1 8 32]

Three servers of the same model run side by side: one with a hundred keys, whose caller's key has a
rate limit and a quota that are never reached; one without keys; and another without keys, which
shows how much two equal servers differ on this machine. They take turns in a rotating order. The
table compares tokens per second, and the CPU time of the server and its engine per chat, which
other work on the machine affects less. The time to admit a single request is printed first.
"""

import argparse
import asyncio
import statistics
import tempfile
import timeit
from contextlib import ExitStack
from pathlib import Path

import psutil

from bench.servers import free_port, machine, plaudit_serve, running
from bench.serving import load
from feedback.control.history import History
from feedback.control.key_operations import make_key
from feedback.control.policies import append_policy_event
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.identity import load_or_create_secret
from protos.checkpoints.folder_registry import FolderRegistry
from protos.plaudit.v1.policy_pb2 import Published
from serving.http.access import Access
from serving.http.usage import Usage, usage_file

KEYS = 100


def new_home(folder: Path, model: Path, keys: int) -> str:
    """Create a home folder that serves a model, with `keys` keys; return the last key's token."""
    FolderRegistry(folder / "registry").publish(model, version=1, parent=0, base="bench")
    log = SqliteLog(folder / "log.db")
    append_policy_event(log, Published(version=1))
    history, token = History(log), ""
    for _ in range(keys):
        history.poll()
        _, token = make_key(log, history.keys, "user", by="bench", rate=1e6, quota=10**9)
    log.close()
    return token


def admission_microseconds(home: Path, token: str) -> float:
    """Return how long it takes to admit a chat request, in microseconds."""
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
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    print(machine())
    model = FolderRegistry(options.home / "registry").path(1)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as servers:
        folder = Path(temporary)
        tokens = {
            name: new_home(folder / name, model, count)
            for name, count in (("without", 0), ("again", 0), ("with", KEYS))
        }
        for name in ("without", "with"):
            token = tokens[name]
            micros = admission_microseconds(folder / name, token)
            print(f"admitting one chat, {name} keys: {micros:.1f} µs")
        urls = {}
        for name in tokens:
            port = free_port()
            urls[name] = f"http://127.0.0.1:{port}"
            command = plaudit_serve(folder / name, port, options.dtype)
            servers.enter_context(running(command, urls[name], "/readyz", folder / f"{name}.log"))
        print("clients  beside 'without'     throughput: median (least, most)   CPU time")
        for clients in options.clients:
            compare(urls, tokens, clients, options.rounds)


def cpu_seconds(url: str) -> float:
    """Return the CPU time that the server at a URL and its engine have used so far."""
    port = url.rpartition(":")[2]
    server = next(p for p in psutil.Process().children() if port in p.cmdline())
    return sum(
        times.user + times.system
        for times in (p.cpu_times() for p in (server, *server.children(recursive=True)))
    )


def compare(urls: dict[str, str], tokens: dict[str, str], clients: int, rounds: int) -> None:
    """Print a row for each server, relative to that without keys; the first round warms up."""
    rates: dict[str, list[float]] = {name: [] for name in urls}
    costs: dict[str, list[float]] = {name: [] for name in urls}
    names = list(urls)
    chats = 3 * clients + 9
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            before = cpu_seconds(urls[name])
            rate, _ = asyncio.run(load(urls[name], clients, chats, tokens[name]))
            if number:
                rates[name].append(rate)
                costs[name].append((cpu_seconds(urls[name]) - before) / chats)
    plain = statistics.median(rates["without"]), statistics.median(costs["without"])
    print(f"{clients:7}  {'itself':18} {plain[0]:8.0f} tokens/s {plain[1] * 1e3:28.1f} ms a chat")
    for name in names[1:]:
        line = f"{clients:7}  {name:18}"
        for found in (rates, costs):
            ratios = sorted(a / b for a, b in zip(found[name], found["without"], strict=True))
            line += f" {statistics.median(ratios):8.3f} ({ratios[0]:.3f}, {ratios[-1]:.3f})    "
        print(line, flush=True)


if __name__ == "__main__":
    main()
