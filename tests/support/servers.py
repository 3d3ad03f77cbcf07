"""Real servers for tests, each in its own process on a free port of 127.0.0.1."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI, OpenAI

from feedback.control.history import History
from feedback.control.key_operations import make_key
from feedback.control.keys import Role
from feedback.control.policies import PolicyMessage, append_policy_event, current_state
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.identity import load_or_create_secret
from feedback.registry import home_registry
from protos.checkpoints.folder_registry import FolderRegistry
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.policy_pb2 import PolicyEvent, Published
from tests.support.models import tiny_adapter, tiny_chat_model

START_SECONDS = 500


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Plaudit:
    """A home folder and the processes that run on it."""

    home: Path
    port: int = field(default_factory=free_port)
    environment: dict[str, str] = field(default_factory=dict)
    key: str = "none"
    other_key: str = "none"
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> SqliteLog:
        return SqliteLog(self.home / "log.db")

    @property
    def registry(self) -> FolderRegistry:
        return home_registry(self.home)

    @property
    def log_file(self) -> Path:
        return self.home / "test.log"

    def openai(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=120)

    def post(self, path: str, body: Any, key: str | None = None, **headers: str) -> httpx.Response:
        """POST JSON with an API key."""
        all_headers = {"Authorization": f"Bearer {key or self.key}", **headers}
        return httpx.post(self.url + path, json=body, headers=all_headers, timeout=120)

    def vote(self, completion_id: str, feedback: Any, **more: Any) -> httpx.Response:
        """Send one vote."""
        body = {"completion_id": completion_id, "feedback": feedback, **more}
        return self.post("/v1/feedback", body)

    def async_openai(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=120)

    def publish(self, version: int, parent: int, seed: int) -> None:
        """Publish a tiny model with random weights."""
        self.add_checkpoint(version, parent, seed)
        self.announce(version, parent)

    def make_key(self, role: Role, **more: Any) -> str:
        """Create an API key; return its token."""
        log = self.log
        history = History(log)
        history.poll()
        secret = load_or_create_secret(self.home / "secret.json")
        _, token = make_key(log, history.keys, role, by="test", secret=secret, **more)
        log.close()
        return token

    def add_checkpoint(self, version: int, parent: int, seed: int) -> None:
        """Put a tiny model with random weights into the registry without announcing it."""
        folder = tiny_chat_model(self.home / f"tiny-{version}", seed)
        self.registry.publish(folder, version=version, parent=parent, base="tiny")

    def add_adapter(self, version: int, parent: int, base: int, rank: int = 8) -> None:
        """Put a random adapter of version `base` into the registry without announcing it."""
        folder = self.home / f"adapter-{version}"
        tiny_adapter(self.registry.path(base), folder, seed=version, rank=rank)
        self.registry.publish(
            folder, version=version, parent=parent, base="tiny", adapter_base=base
        )

    def announce(self, version: int, parent: int, trial: bool = False) -> None:
        """Announce a version of the registry to the replicas."""
        self.append_event(Published(version=version, parent=parent, trial=trial))

    def append_event(self, message: PolicyMessage) -> None:
        """Append one policy event."""
        log = self.log
        append_policy_event(log, message)
        log.close()

    def run(self, *command: str) -> None:
        """Start `plaudit COMMAND…` in its own process group."""
        with self.log_file.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy.commands.main", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def serve(self) -> None:
        self.run("serve", "--home", str(self.home), "--port", str(self.port), "--dtype", "float32")
        self.wait_ready()

    def wait_ready(self, seconds: float = START_SECONDS) -> int:
        """Wait until the endpoint has a policy; return its version."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process is not None and self.process.poll() is not None:
                break
            try:
                response = httpx.get(f"{self.url}/readyz", timeout=5)
            except httpx.HTTPError:
                time.sleep(0.3)
                continue
            if response.status_code == 200:
                return int(response.json()["policy_version"])
        raise AssertionError(f"not ready:\n{self.log_file.read_text()[-6000:]}")

    def version(self) -> int:
        return int(httpx.get(f"{self.url}/readyz", timeout=30).json()["policy_version"])

    def wait_version(self, version: int, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while self.version() != version:
            assert time.monotonic() < deadline, f"still at {self.version()}, not at {version}"
            time.sleep(0.05)

    def records(self) -> dict[str, CompletionRecord]:
        """Return all completion records by id; each must be recorded once."""
        found: dict[str, CompletionRecord] = {}
        for record in self.read_all("completions"):
            parsed = CompletionRecord.FromString(record)
            assert parsed.completion_id not in found, "recorded twice"
            found[parsed.completion_id] = parsed
        return found

    def policy_events(self) -> list[PolicyEvent]:
        return [PolicyEvent.FromString(value) for value in self.read_all("policies")]

    def read_all(self, topic: str) -> list[bytes]:
        log = self.log
        values: list[bytes] = []
        positions: dict[int, int] = {}
        while records := log.read(topic, positions):  # type: ignore[arg-type]
            values += [r.value for r in records]
            positions = {records[-1].partition: records[-1].offset + 1}
        log.close()
        return values

    def live(self) -> int:
        log = self.log
        state = current_state(log)
        log.close()
        return state.live

    def stop(self, signal_number: int = signal.SIGTERM, seconds: float = 45) -> int:
        """Signal the process, wait for it and kill the rest of its group; return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal_number)
        try:
            code = self.process.wait(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return code


@contextmanager
def running_server(
    home: Path, environment: dict[str, str] | None = None, *, keys: bool = False
) -> Iterator[Plaudit]:
    """Serve a tiny model as version 1; with `keys`, create keys of an operator and a user."""
    home.mkdir(parents=True, exist_ok=True)
    plaudit = Plaudit(home, environment=environment or {})
    if keys:
        plaudit.key, plaudit.other_key = plaudit.make_key("operator"), plaudit.make_key("user")
    plaudit.publish(1, 0, seed=1)
    plaudit.serve()
    try:
        yield plaudit
    finally:
        plaudit.stop()


def start_up(home: Path, environment: dict[str, str], *, imported: bool = False) -> Plaudit:
    """Start `plaudit up` on a tiny model with random weights, published or to be imported."""
    home.mkdir(parents=True, exist_ok=True)
    plaudit = Plaudit(home, environment=environment)
    if imported:
        model = ["--model", str(tiny_chat_model(home.parent / f"{home.name}-model", seed=1))]
    else:
        model = []
        plaudit.publish(1, 0, seed=1)
    ports = ["--port", str(plaudit.port), "--learner-port", str(free_port())]
    plaudit.run("up", "--home", str(home), "--dtype", "float32", *model, *ports)
    plaudit.wait_ready()
    return plaudit
