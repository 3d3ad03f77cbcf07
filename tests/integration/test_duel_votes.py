"""Duels from end to end: votes over HTTP, the decision of the learner, all traffic after it."""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from feedback.policies import current
from learner.service import run
from learner.settings import DuelSettings, LearnerSettings
from protos.plaudit.v1.policy_pb2 import Activated, DuelEnded
from tests.integration.test_swap import spans
from tests.servers import Plaudit, served

QUESTION: list[Any] = [{"role": "user", "content": "What is the sea like at night?"}]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plaudit]:
    """A server that takes adapters, and a learner that never has votes enough for a cycle."""
    folder: Path = tmp_path_factory.mktemp("duels")
    environment = {
        "PLAUDIT_SERVING_POLL_SECONDS": ".1",
        "PLAUDIT_SERVING_LORA_RANK": "8",
        "PLAUDIT_SERVING_DUEL_SHARE": "1",
    }
    stop = threading.Event()
    # A wide edge, for a test that takes few votes.
    settings = LearnerSettings(
        metrics_port=0, min_events=10**6, poll_seconds=0.1, duel=DuelSettings(edge=0.25)
    )
    with served(folder, environment) as server:
        learner = threading.Thread(target=run, args=(folder, settings, stop))
        learner.start()
        yield server
        stop.set()
        learner.join(30)
        assert not learner.is_alive()


def vote_until_it_ends(plaudit: Plaudit, challenger: int, preferred: float) -> DuelEnded:
    """Chat and vote for the challenger's answer this often, as people would who see only texts."""
    source = random.Random(challenger)
    deadline = time.monotonic() + 180
    client = plaudit.openai()
    while time.monotonic() < deadline:
        for event in plaudit.policy_events():
            if event.duel_ended.version == challenger:
                return event.duel_ended
        answer = client.chat.completions.create(
            model="plaudit", messages=QUESTION, n=2, max_tokens=4, user=f"u{source.random()}"
        )
        versions = [spans(c)[0][0] for c in plaudit.records()[answer.id].choices]
        if challenger in versions:
            for_it = source.random() < preferred
            better = versions.index(challenger) if for_it else 1 - versions.index(challenger)
            verdict = ("left", "right")[better]
            opinion = {"kind": "comparison", "left": 0, "right": 1, "verdict": verdict}
            assert plaudit.vote(answer.id, opinion, source="simulated").status_code == 201
    raise AssertionError("the duel did not end")


def test_votes_promote_a_better_adapter_and_roll_back_a_worse_one(home: Plaudit) -> None:
    home.add_adapter(2, 1, 1)
    home.announce(2, 1, trial=True)
    won = vote_until_it_ends(home, 2, preferred=0.8)
    print(f"promoted after {won.wins} votes for it and {won.losses} against")
    assert (won.promoted, won.against) == (True, 1)
    assert won.wins > won.losses
    home.wait_version(2)
    home.add_adapter(3, 2, 1)
    home.announce(3, 2, trial=True)
    lost = vote_until_it_ends(home, 3, preferred=0.2)
    print(f"rolled back after {lost.wins} votes for it and {lost.losses} against")
    assert (lost.promoted, lost.against) == (False, 2)
    assert lost.wins < lost.losses
    log = home.log
    state = current(log)
    log.close()
    assert (state.live, state.challenger, state.rolled_back) == (2, 0, {3})
    assert not state.held
    time.sleep(0.5)
    answer = home.openai().chat.completions.create(
        model="plaudit", messages=QUESTION, n=2, max_tokens=4
    )
    assert [spans(c)[0][0] for c in home.records()[answer.id].choices] == [2, 2]


def test_an_operator_ends_a_duel(home: Plaudit) -> None:
    live = home.version()
    home.add_adapter(4, live, 1)
    home.announce(4, live, trial=True)
    home.tell(Activated(version=4, by="test"))
    home.wait_version(4)
    log = home.log
    state = current(log)
    log.close()
    assert (state.live, state.challenger, state.held) == (4, 0, False)
