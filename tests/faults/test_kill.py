"""SIGKILL of the learner, of serving under load, and of `plaudit up` itself.

Afterwards every accepted event is in the ledger exactly once, serving restarts with the live
version, and the learner has caught up.
"""

import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from protos.plaudit.v1.completion_pb2 import CompletionRecord
from tests.support.servers import Plaudit, free_port

SEED = 7


def processes(*words: str) -> list[int]:
    """Return the ids of the processes whose command line contains all `words`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if all(word in line for word in words):
                found.append(int(entry.name))
    return found


class Voter(threading.Thread):
    """A client that chats and votes without a pause and records which votes were accepted."""

    def __init__(self, plaudit: Plaudit, number: int) -> None:
        super().__init__(daemon=True)
        self.plaudit = plaudit
        self.number = number
        self.accepted: list[str] = []
        self.chats = 0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.is_set():
            try:
                self.chat_and_vote()
            except (openai.APIError, httpx.HTTPError):
                time.sleep(0.2)

    def chat_and_vote(self) -> None:
        answer = self.plaudit.openai().chat.completions.create(
            model="plaudit", n=2, max_tokens=8, messages=[{"role": "user", "content": "Hi"}]
        )
        self.chats += 1
        vote = {"kind": "comparison", "left": 0, "right": 1, "verdict": "left"}
        for _ in range(2):  # as a client that retries does
            response = self.plaudit.post(
                "/v1/feedback",
                {"completion_id": answer.id, "feedback": vote, "user": f"voter-{self.number}"},
                **{"Idempotency-Key": answer.id},
            )
            if response.status_code in (200, 201):
                self.accepted.append(response.json()["id"])


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Plaudit]:
    plaudit = Plaudit(
        tmp_path / "home",
        environment={
            "PLAUDIT_FAILPOINTS": str(tmp_path / "failpoints"),
            "PLAUDIT_SERVING_ENFORCE_EAGER": "1",
        },
    )
    plaudit.home.mkdir()
    plaudit.publish(1, 0, seed=1)
    start(plaudit)
    yield plaudit
    plaudit.stop()


def start(plaudit: Plaudit) -> None:
    ports = ["--port", str(plaudit.port), "--learner-port", str(free_port())]
    plaudit.run("up", "--home", str(plaudit.home), "--dtype", "float32", *ports)
    plaudit.wait_ready()


def wait_until(what: str, seconds: float, condition: object) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def test_kills_neither_lose_nor_duplicate_events(running: Plaudit, tmp_path: Path) -> None:
    plaudit, rng = running, random.Random(SEED)
    plaudit.publish(2, 1, seed=2)
    plaudit.wait_version(2)
    voters = [Voter(plaudit, i) for i in range(4)]
    for voter in voters:
        voter.start()
    wait_until("no chats after the swap", 60, lambda: sum(v.chats for v in voters) > 20)
    home = str(plaudit.home)
    for _ in range(3):
        wait_until("no learner runs", 60, lambda: processes("deploy.commands.main", "learn", home))
        time.sleep(rng.uniform(0.5, 5))
        for pid in processes("deploy.commands.main", "learn", home):
            os.kill(pid, signal.SIGKILL)
    # Kill serving in the middle of a swap, between loading the new weights and labelling them.
    assert plaudit.process is not None
    found = processes("deploy.commands.main", "serve", home)
    (serving,) = [i for i in found if psutil.Process(i).ppid() == plaudit.process.pid]
    engines = psutil.Process(serving).children(recursive=True)
    assert engines
    (tmp_path / "failpoints").write_text("swap.label=kill")
    plaudit.publish(3, 2, seed=3)
    wait_until("serving is still up", 60, lambda: not is_ready(plaudit))
    wait_until("vLLM's engine outlives its server", 60, lambda: not any(map(is_running, engines)))
    assert plaudit.wait_ready() == 3
    count = sum(v.chats for v in voters)
    wait_until("no chats after the restart", 60, lambda: sum(v.chats for v in voters) > count + 20)

    plaudit.process.send_signal(signal.SIGKILL)
    plaudit.process.wait()
    wait_until(
        "child processes outlive 'plaudit up'",
        90,
        lambda: not processes("deploy.commands.main", home),
    )
    start(plaudit)
    assert plaudit.version() == 3
    count = sum(v.chats for v in voters)
    wait_until("no chats after the restart", 60, lambda: sum(v.chats for v in voters) > count + 20)
    for voter in voters:
        voter.done.set()
    for voter in voters:
        voter.join(60)
    accepted = {i for v in voters for i in v.accepted}
    print(f"{sum(v.chats for v in voters)} chats, {len(accepted)} votes accepted")
    assert len(accepted) > 50
    wait_until("accepted events are lost", 120, lambda: accepted <= set(ledger_events(plaudit)))
    ids = ledger_events(plaudit)
    assert len(ids) == len(set(ids)), "an event is in the ledger twice"
    assert check_version_spans(plaudit) == {2, 3}
    assert plaudit.log_file.read_text().count("learner stopped with signal 9") >= 2


def check_version_spans(plaudit: Plaudit) -> set[int]:
    """Check that spans cover every recorded token; return the versions that they name."""
    log, records = plaudit.log, []
    while batch := log.read("completions", {0: records[-1].offset + 1 if records else 0}):
        records += batch
    log.close()
    seen = set()
    for record in records:
        for choice in CompletionRecord.FromString(record.value).choices:
            spans = [(span.start, span.end) for span in choice.versions]
            assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
            assert spans[-1][1] == len(choice.token_ids)
            seen |= {span.policy_version for span in choice.versions}
    return seen


def is_running(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def is_ready(plaudit: Plaudit) -> bool:
    try:
        return httpx.get(f"{plaudit.url}/readyz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def ledger_events(plaudit: Plaudit) -> list[str]:
    """Return the ids of the ledger's events; none while the learner makes its file."""
    try:
        with sqlite3.connect(f"file:{plaudit.home}/ledger.db?mode=ro", uri=True) as database:
            rows = database.execute("SELECT event_id FROM events WHERE dead = 0").fetchall()
    except sqlite3.OperationalError:
        return []
    return [row[0] for row in rows]
