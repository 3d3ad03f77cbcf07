"""Attacks of a client with a key, all at once, while an honest client chats and votes.

Everything of the honest client succeeds, its votes take less than a second, and the learner
publishes a version. `PLAUDIT_CHAOS_SECONDS` says for how long: ten minutes by default, and at least
two, which a version takes.
"""

import contextlib
import itertools
import json
import os
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.support.door import CHAT, REQUESTS
from tests.support.learner_cycles import SETTINGS, environment_of
from tests.support.servers import Plaudit, start_up
from tests.support.votes import ask_yes_or_no

SECONDS: Final = float(os.environ.get("PLAUDIT_CHAOS_SECONDS", "600"))
ATTACKER: Final = "127.0.0.2"  # attacks come from an address of their own
SLOW_CLIENTS: Final = 300  # more than an address may have
MEBIBYTE: Final = 2**20
LEARNER: Final = SETTINGS.model_copy(
    update={
        "min_events": 60,
        "reward": SETTINGS.reward.model_copy(update={"epochs": 20, "held_out_share": 0.3}),
    }
)
HI: Final = [{"role": "user", "content": "hi"}]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(int(SECONDS) + 1200)]


@pytest.fixture
def plaudit(tmp_path: Path) -> Iterator[Plaudit]:
    environment = {
        **environment_of(LEARNER),
        "PLAUDIT_SERVING_POLL_SECONDS": ".1",
        "PLAUDIT_SERVING_ENFORCE_EAGER": "1",
    }
    server = start_up(tmp_path / "home", environment)
    server.key = server.make_key("user", trusted_users=True)  # a service with users of its own
    server.other_key = server.make_key("user")
    time.sleep(2)  # until the server knows the keys
    yield server
    assert server.stop() == 0


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for level in range(depth):
        schema = {"type": "object", "properties": {f"p{i}{level}": schema for i in range(2)}}
    return schema


def constrained(**constraint: Any) -> bytes:
    body = {"model": "plaudit", "messages": HI, "max_tokens": 4, "structured_outputs": constraint}
    return json.dumps(body).encode()


def chat(**fields: Any) -> bytes:
    body = {"model": "plaudit", "messages": HI, "max_tokens": 4, **fields}
    return json.dumps(body).encode()


def costly_bodies() -> list[bytes]:
    """Return chats that ask for much work, or for room in the log, by one request."""
    wide = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(30_000)}}
    deep = b'{"messages": ' + b"[" * 1500 + b"]" * 1500 + b"}"
    return [
        constrained(json=wide),
        constrained(json=nested(8)),
        constrained(regex="(a|a)*" * 200),
        constrained(grammar="root ::= " + " | ".join(f'"{i}"' for i in range(20_000))),
        constrained(choice=[str(i) for i in range(50_000)]),
        chat(n=10**6),
        chat(n=128, max_tokens=64),
        chat(logit_bias={str(i): 1 for i in range(100_000)}),
        deep,
        chat(stop=["x"] * 100_000),
        chat(messages=[{"role": "user", "content": " " * 3 * MEBIBYTE}]),
        chat(messages=HI * 20_000),
        chat(messages=[{"role": "user", "content": "y" * 3 * MEBIBYTE}]),
        *(file.read_bytes() for file in sorted(REQUESTS.iterdir())),
    ]


@dataclass
class Attacks:
    """Threads that attack until they are told to stop, and what they were answered."""

    plaudit: Plaudit
    stop: threading.Event = field(default_factory=threading.Event)
    statuses: Counter[str] = field(default_factory=Counter)

    def start(self) -> None:
        for work in (self.send_costly, self.send_rankings, self.flood_votes, self.hold_connections):
            threading.Thread(target=self.repeat, args=(work,), daemon=True).start()

    def repeat(self, work: Callable[[httpx.Client], None]) -> None:
        headers = {
            "Authorization": f"Bearer {self.plaudit.other_key}",
            "Content-Type": "application/json",
        }
        while not self.stop.is_set():
            transport = httpx.HTTPTransport(local_address=ATTACKER)
            with (
                contextlib.suppress(httpx.HTTPError, OSError),
                httpx.Client(
                    base_url=self.plaudit.url, headers=headers, transport=transport, timeout=30
                ) as client,
            ):
                work(client)

    def note(self, name: str, response: httpx.Response) -> None:
        self.statuses[f"{name} {response.status_code}"] += 1

    def send_costly(self, client: httpx.Client) -> None:
        for body in costly_bodies():
            self.note("chat", client.post(CHAT, content=body))
            if self.stop.wait(0.1):
                return

    def send_rankings(self, client: httpx.Client) -> None:
        """Rank as many and as long answers as can be had, and more than there are."""
        answer = client.post(CHAT, content=chat(n=64, max_tokens=64))
        self.note("64 answers", answer)
        if answer.status_code == 200:
            for count in (64, 128):
                feedback = {"kind": "ranking", "order": list(range(count))}
                self.vote(client, answer.json()["id"], feedback, "ranking")
        self.stop.wait(0.5)

    def flood_votes(self, client: httpx.Client) -> None:
        answer = client.post(CHAT, content=chat(n=2))
        if answer.status_code == 200:
            for number in range(50):
                feedback = {"kind": "comparison", "left": 0, "right": 1, "verdict": "right"}
                self.vote(client, answer.json()["id"], feedback, "vote", user=f"invented {number}")
        self.stop.wait(0.5)

    def vote(self, client: httpx.Client, answer: str, vote: Any, name: str, **more: str) -> None:
        body = {"completion_id": answer, "feedback": vote, **more}
        self.note(name, client.post("/v1/feedback", json=body))

    def hold_connections(self, _: httpx.Client) -> None:
        """Send half of a head, or of a body, on more connections than an address may have."""
        halves = itertools.cycle(
            [
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n",
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
            ]
        )
        with contextlib.ExitStack() as held:
            for _ in range(SLOW_CLIENTS):
                address = ("127.0.0.1", self.plaudit.port)
                client = socket.create_connection(address, 10, source_address=(ATTACKER, 0))
                held.enter_context(client)
                client.sendall(next(halves))
            self.statuses["slow clients"] += SLOW_CLIENTS
            self.stop.wait(15)


@dataclass
class Honest:
    """A client that chats and votes, and expects every request to succeed."""

    plaudit: Plaudit
    vote_seconds: list[float] = field(default_factory=list)
    chat_seconds: list[float] = field(default_factory=list)

    def chat_and_vote(self, number: int) -> None:
        started = time.monotonic()
        completion, vote = ask_yes_or_no(self.plaudit, number)
        voted = time.monotonic()
        response = self.plaudit.vote(completion, vote, user=f"person {number % 20}")
        assert response.status_code == 201, response.text
        self.chat_seconds.append(voted - started)
        self.vote_seconds.append(time.monotonic() - voted)


def test_an_honest_client_is_served_while_another_attacks(plaudit: Plaudit) -> None:
    attacks, honest = Attacks(plaudit), Honest(plaudit)
    attacks.start()
    ends = time.monotonic() + SECONDS
    for number in itertools.count():
        if time.monotonic() > ends:
            break
        honest.chat_and_vote(number)
        time.sleep(0.5)
    version = plaudit.version()
    attacks.stop.set()
    chats, votes = (
        statistics.quantiles(s, n=100) for s in (honest.chat_seconds, honest.vote_seconds)
    )
    print(
        f"{SECONDS:.0f} s; {len(honest.vote_seconds)} chats and votes of the honest client; chat: "
        f"median {chats[49]:.2f} s, p99 {chats[98]:.2f} s; vote: median {votes[49]:.3f} s, p99 "
        f"{votes[98]:.3f} s; live: version {version}; answered to attacks: "
        f"{dict(sorted(attacks.statuses.items()))}"
    )
    assert not [name for name in attacks.statuses if name.split()[-1].startswith("5")], "an error"
    assert votes[98] < 1
    assert version > 1
