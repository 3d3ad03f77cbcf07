"""Voters who vote without a pause and retry with the same key until they get an answer."""

import random
import threading
import time
from typing import Any

import httpx

PATIENCE_SECONDS = 25  # after the voting has ended
IMPATIENT_SECONDS = 0.004
REST_SECONDS = 0.01


class Voter(threading.Thread):
    """A voter. Some votes are sent twice, replaced or retracted; some clients hang up early.

    Attributes:
        accepted: Time of acceptance and reason of each vote, by event id.
        replaced: Reasons of votes that a later one of the same author replaced.
        retracted: Reasons of votes that were retracted.
        refused: Unexpected answers.
        repeated: Number of votes that were sent again after a failure and accepted as duplicates.
        last: The last failure.
        unavailable_answers: Number of answers with status 503.

    """

    def __init__(
        self, url: str, number: int, seed: int, hurried_share: float, duplicate_share: float
    ) -> None:
        super().__init__(daemon=True, name=f"voter-{number}")
        self.url = url
        self.number = number
        self.rng = random.Random(seed)
        self.hurried_share = hurried_share
        self.duplicate_share = duplicate_share
        self.accepted: dict[str, tuple[float, str]] = {}
        self.replaced: list[str] = []
        self.retracted: list[str] = []
        self.refused: list[str] = []
        self.repeated = 0
        self.last = ""
        self.unavailable_answers = 0
        self.votes = 0
        self.done = threading.Event()
        self._until = float("inf")

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=8) as client:
            while not self.done.is_set():
                answer = self._send_until_accepted(client, "POST", "/answers")
                if answer is not None:
                    self._vote_on(client, answer.json())
                time.sleep(REST_SECONDS)

    def _vote_on(self, client: httpx.Client, completion_id: str) -> None:
        first = self._vote(client, completion_id, "up")
        draw = self.rng.random()
        if first is None or draw < 0.7:
            return
        if draw < 0.85:
            if self._vote(client, completion_id, "down") is not None:
                self.replaced.append(self.accepted[first][1])
        else:
            response = self._send_until_accepted(client, "DELETE", f"/v1/feedback/{first}")
            if response is not None:
                self.retracted.append(self.accepted[first][1])

    def _vote(self, client: httpx.Client, completion_id: str, value: str) -> str | None:
        self.votes += 1
        key = f"{self.number}-{self.votes}"
        body = {
            "completion_id": completion_id,
            "user": f"voter-{self.number}",
            "reason": key,
            "feedback": {"kind": "rating", "choice": 0, "value": value},
        }
        impatient = self.rng.random() < self.hurried_share
        answer = self._send_until_accepted(client, "POST", "/v1/feedback", key, body, impatient)
        if answer is None:
            return None
        event_id: str = answer.json()["id"]
        self.accepted[event_id] = (time.monotonic(), key)
        if self.rng.random() < self.duplicate_share:
            again = self._send_until_accepted(client, "POST", "/v1/feedback", key, body)
            if again is not None and (again.status_code, again.json()["id"]) != (200, event_id):
                self.refused.append(f"sent twice: {again.status_code} {again.text}")
        return event_id

    def _send_until_accepted(
        self,
        client: httpx.Client,
        method: str,
        path: str,
        key: str | None = None,
        body: Any = None,
        impatient: bool = False,
    ) -> httpx.Response | None:
        """Retry until the request is accepted; return None if refused or after voting has ended."""
        headers = {} if key is None else {"Idempotency-Key": key}
        failed = False
        while not self._given_up():
            timeout = IMPATIENT_SECONDS if impatient and not failed else client.timeout
            try:
                answer = client.request(method, path, json=body, headers=headers, timeout=timeout)
            except httpx.HTTPError as error:
                self.last = repr(error)
                failed = True
                time.sleep(0.05)
                continue
            if answer.status_code in (200, 201):
                self.repeated += failed and answer.status_code == 200 and key is not None
                return answer
            if answer.status_code != 503:
                self.refused.append(f"{method} {path}: {answer.status_code} {answer.text}")
                return None
            failed = True
            self.unavailable_answers += 1
            self.last = f"{method} {path}: {answer.text}"
            time.sleep(0.1)
        return None

    def _given_up(self) -> bool:
        if self.done.is_set() and self._until == float("inf"):
            self._until = time.monotonic() + PATIENCE_SECONDS
        return time.monotonic() > self._until
