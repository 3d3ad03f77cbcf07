"""API keys, operators' routes and the learning stream on a real server."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from feedback.control.history import History
from feedback.control.key_operations import revoke_key
from feedback.ledger.store import Ledger
from protos.plaudit.v1.policy_pb2 import Hold, Published
from tests.support.servers import Plaudit

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def next_version(plaudit: Plaudit) -> int:
    return max(plaudit.registry.versions()) + 1


def get(plaudit: Plaudit, path: str, key: str | None = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key or plaudit.key}"}
    return httpx.get(plaudit.url + path, headers=headers, timeout=30)


def wait_for(seconds: float, condition: Callable[[], bool]) -> float:
    """Wait for a condition; return the seconds until it held."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"the condition did not hold within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - start


@pytest.mark.parametrize(
    ("path", "none", "user", "operator"),
    [
        ("/livez", 200, 200, 200),
        ("/metrics/", 200, 200, 200),
        ("/v1/me", 401, 200, 200),
        ("/v1/models", 401, 200, 200),
        ("/v1/feedback", 401, 200, 200),
        ("/v1/learning", 401, 200, 200),
        ("/v1/policies", 401, 403, 200),
        ("/v1/policies/1", 401, 403, 200),
        ("/v1/audit", 401, 403, 200),
        ("/v1/keys", 401, 403, 404),
        ("/server_info", 401, 403, 404),
        ("/scale_elastic_ep", 401, 403, 404),
    ],
)
def test_routes_require_roles(
    plaudit: Plaudit, path: str, none: int, user: int, operator: int
) -> None:
    keys = ("none", plaudit.other_key, plaudit.key)
    assert [get(plaudit, path, key).status_code for key in keys] == [none, user, operator]


def test_a_key_is_accepted_and_revoked_within_a_second(plaudit: Plaudit) -> None:
    key = plaudit.make_key("user", name="short-lived")
    wait_for(1, lambda: get(plaudit, "/v1/models", key).status_code == 200)
    log = plaudit.log
    history = History(log)
    history.poll()
    revoke_key(log, history.keys, "short-lived", by="test")
    log.close()
    wait_for(1, lambda: get(plaudit, "/v1/models", key).status_code == 401)


def test_rate_limits_and_quotas_are_enforced(plaudit: Plaudit) -> None:
    key = plaudit.make_key("user", rate=5, quota=2)
    body = {"model": "plaudit", "messages": HELLO, "max_tokens": 1}
    wait_for(1, lambda: get(plaudit, "/v1/me").status_code == 200)
    wait_for(1, lambda: get(plaudit, "/v1/models", key).status_code == 200)  # 1 of 5
    answers = [plaudit.post("/v1/chat/completions", body, key=key) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429, 429]
    codes = [answer.json()["error"]["code"] for answer in answers[2:]]
    assert codes == ["insufficient_quota", "insufficient_quota", "rate_limit_exceeded"]
    assert int(answers[-1].headers["Retry-After"]) > 0


def test_operators_roll_back_and_resume_over_http(plaudit: Plaudit, next_version: int) -> None:
    before = plaudit.version()
    plaudit.publish(next_version, before, next_version)
    plaudit.wait_version(next_version)
    answer = plaudit.post("/v1/policies/rollback", {"reason": "worse at tea"})
    assert answer.status_code == 200
    listed = answer.json()
    assert (listed["live"], listed["held"]) == (before, True)
    plaudit.wait_version(before)
    states = {one["version"]: one["state"] for one in listed["data"]}
    assert (states[before], states[next_version]) == ("live", "rolled_back")
    shown = get(plaudit, f"/v1/policies/{before}").json()
    assert shown["bytes"] > 0
    wait_for(5, lambda: get(plaudit, f"/v1/policies/{before}").json()["replicas"] == ["replica-0"])
    assert plaudit.post(f"/v1/policies/{before}/activate", {}).status_code == 409
    assert plaudit.post("/v1/policies/9999/activate", {}).status_code == 404
    assert plaudit.post("/v1/policies/resume", {}).json()["held"] is False
    assert plaudit.post("/v1/policies/resume", {}).status_code == 409
    name = get(plaudit, "/v1/me").json()["name"]
    entries = get(plaudit, "/v1/audit?limit=2").json()["data"]
    assert [(d["by"], d["action"]) for d in entries] == [(name, "resumed"), (name, "rolled_back")]
    assert entries[1]["text"].endswith("worse at tea")


def test_a_vote_names_the_version_that_learned_from_it(plaudit: Plaudit, next_version: int) -> None:
    body = {"model": "plaudit", "messages": HELLO, "n": 2, "max_tokens": 4}
    completion_id = plaudit.post("/v1/chat/completions", body).json()["id"]
    feedback = {"kind": "comparison", "left": 0, "right": 1, "verdict": "left"}
    vote = plaudit.vote(completion_id, feedback).json()
    assert vote["learned_in"] is None
    ledger, log = Ledger(plaudit.home / "ledger.db"), plaudit.log
    while ledger.follow(log):
        pass
    log.close()
    coverage = ledger.coverage(ledger.counts().max_seq)
    ledger.close()
    parent = plaudit.version()
    plaudit.add_checkpoint(next_version, parent, next_version)
    plaudit.append_event(Published(version=next_version, parent=parent, lessons=coverage))
    plaudit.wait_version(next_version)

    def learned() -> bool:
        found = get(plaudit, f"/v1/feedback/{vote['id']}").json()["learned_in"]
        assert found in (None, next_version)
        return bool(found)

    wait_for(2, learned)


def test_a_change_is_sent_on_the_stream(plaudit: Plaudit) -> None:
    headers = {"Authorization": f"Bearer {plaudit.other_key}"}
    held: list[bool] = []
    with httpx.stream("GET", f"{plaudit.url}/v1/learning/events", headers=headers) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        hold = threading.Timer(0.5, plaudit.append_event, [Hold(held=True, by="test")])
        hold.start()
        started = time.monotonic()
        for line in stream.iter_lines():
            if line.startswith("data: "):
                held.append(json.loads(line.removeprefix("data: "))["held"])
            if held and held[-1]:
                break
        seconds = time.monotonic() - started
    plaudit.append_event(Hold(held=False, by="test"))
    assert held[0] is False
    assert seconds < 3
