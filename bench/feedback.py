"""Measure accepted votes per second and their latency, beside a bare handler and a bare producer.

    uv run python -m bench.feedback [--rounds 5] [--seconds 3] [--no-kafka]

Four targets take turns, driven by 1, 16 and 64 clients: `POST /v1/feedback` on SQLite and on Kafka
(in an app with these routes only, without vLLM), a FastAPI handler that only validates the same
body, and kafka-python's producer waiting for each record (acks=all, idempotent), with one thread
per client. The HTTP client is minimal, so that it is not the bottleneck.
"""

import argparse
import asyncio
import gc
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from kafka import KafkaProducer
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.servers import free_port, machine, running
from deploy.local.broker import Broker
from feedback.api.routes import feedback_router
from feedback.api.schema import FeedbackRequest
from feedback.control.keys import Caller
from feedback.opening import open_log
from feedback.privacy.identity import LOCAL_OWNER, create_completion_id, load_or_create_secret
from feedback.view.feedback_view import View

CLIENTS = (1, 16, 64)
Latencies = list[float]  # seconds


def _with_local_caller(app: ASGIApp) -> ASGIApp:
    caller = Caller(LOCAL_OWNER, "operator", LOCAL_OWNER)

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope.setdefault("state", {})["caller"] = caller
        await app(scope, receive, send)

    return wrapped


def serve(home: Path, port: int) -> None:
    """Serve the feedback routes and the bare handler."""
    app = FastAPI()
    secret = load_or_create_secret(home / "secret.json")
    app.include_router(feedback_router(open_log(home), View(home / "view.db"), secret))

    @app.post("/bare", status_code=201)
    async def bare(request: FeedbackRequest) -> dict[str, str]:
        return {"id": "fb-0", "object": "feedback", "completion_id": request.completion_id}

    @app.get("/health")
    async def health() -> str:
        return "ok"

    gc.collect()
    gc.freeze()  # as vLLM's server does: the collector skips imported modules
    uvicorn.run(_with_local_caller(app), host="127.0.0.1", port=port, log_level="warning")


def request_bytes(home: Path, path: str) -> bytes:
    """Return a complete HTTP request with a vote."""
    secret = load_or_create_secret(home / "secret.json")
    body = json.dumps(
        {
            "completion_id": create_completion_id(secret, "local", 2, 1, now=time.time()),
            "user": "bench",
            "feedback": {"kind": "comparison", "left": 0, "right": 1, "verdict": "left"},
        }
    )
    return (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def post_until(port: int, request: bytes, deadline: float, seen: Latencies) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 201"):
            raise RuntimeError(head.decode())
        seen.append(time.perf_counter() - start)
    writer.close()


def posts(port: int, request: bytes) -> Callable[[int, float], Latencies]:
    async def drive(clients: int, seconds: float) -> Latencies:
        seen: Latencies = []
        deadline = time.perf_counter() + seconds
        await asyncio.gather(*(post_until(port, request, deadline, seen) for _ in range(clients)))
        return seen

    return lambda clients, seconds: asyncio.run(drive(clients, seconds))


def produce(producer: KafkaProducer, topic: str) -> Callable[[int, float], Latencies]:
    def drive(clients: int, seconds: float) -> Latencies:
        seen: Latencies = []
        deadline = time.perf_counter() + seconds

        def one() -> None:
            while time.perf_counter() < deadline:
                start = time.perf_counter()
                producer.send(topic, b"v" * 300, key=b"k").get(timeout=30)
                seen.append(time.perf_counter() - start)

        threads = [threading.Thread(target=one) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return seen

    return drive


def table(
    drivers: dict[str, Callable[[int, float], Latencies]], options: argparse.Namespace
) -> None:
    print("clients  what                    events/s median (min)   p50 ms   p99 ms")
    for clients in CLIENTS:
        rates: dict[str, list[float]] = {name: [] for name in drivers}
        seen: dict[str, Latencies] = {name: [] for name in drivers}
        for number in range(options.rounds + 1):
            for name, drive in drivers.items():
                got = drive(clients, options.seconds)
                if number:  # the first round warms up
                    rates[name].append(len(got) / options.seconds)
                    seen[name] += got
        for name in drivers:
            latencies = sorted(seen[name])
            print(
                f"{clients:7}  {name:22} {statistics.median(rates[name]):9.0f} "
                f"({min(rates[name]):.0f})   {latencies[len(latencies) // 2] * 1000:14.2f} "
                f"{latencies[int(0.99 * len(latencies))] * 1000:8.2f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--no-kafka", action="store_true")
    parser.add_argument("--serve", type=Path)
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.port)
        return
    print(machine())
    folder = Path(tempfile.mkdtemp())
    broker = Broker(folder / "kafka", free_port(), free_port())
    if not options.no_kafka:
        broker.start(print)
    try:
        compare(folder, broker, options)
    finally:
        broker.stop()


def compare(folder: Path, broker: Broker, options: argparse.Namespace) -> None:
    homes = {name: folder / name for name in ("SQLite", "Kafka")}
    ports = {name: free_port() for name in homes}
    for home in homes.values():
        home.mkdir()
    commands = {
        name: [
            *(sys.executable, "-m", "bench.feedback", "--serve", str(homes[name])),
            *("--port", str(ports[name])),
        ]
        for name in homes
    }
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    log = folder / "serve.log"
    with running(commands["SQLite"], urls["SQLite"], "/health", log):
        sqlite, home = ports["SQLite"], homes["SQLite"]
        drivers = {
            "bare handler": posts(sqlite, request_bytes(home, "/bare")),
            "Plaudit on SQLite": posts(sqlite, request_bytes(home, "/v1/feedback")),
        }
        if options.no_kafka:
            table(drivers, options)
            return
        os.environ["PLAUDIT_KAFKA_SERVERS"] = broker.address
        with running(commands["Kafka"], urls["Kafka"], "/health", log):
            producer = KafkaProducer(
                bootstrap_servers=broker.address, acks="all", enable_idempotence=True
            )
            drivers["bare producer"] = produce(producer, "plaudit.feedback")
            drivers["Plaudit on Kafka"] = posts(
                ports["Kafka"], request_bytes(homes["Kafka"], "/v1/feedback")
            )
            table(drivers, options)
            producer.close()


if __name__ == "__main__":
    main()
