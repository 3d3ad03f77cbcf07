"""Trials end to end: votes over HTTP, the learner's decision, and the traffic after it."""

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from feedback.control.policies import current_state
from learner.cycle.service import run
from learner.settings import DuelSettings, LearnerSettings
from protos.plaudit.v1.policy_pb2 import Activated, DuelEnded
from tests.support.servers import Plaudit
from tests.support.streams import spans

QUESTION: list[Any] = [{"role": "user", "content": "What is the sea like at night?"}]


@pytest.fixture(scope="module", autouse=True)
def learner(adapter_server: Plaudit) -> Iterator[None]:
    """Run a learner that never has enough votes for a cycle."""
    stop = threading.Event()
    # A wide edge, so that the sequential test needs few votes.
    settings = LearnerSettings(
        metrics_port=0, min_events=10**6, poll_seconds=0.1, duel=DuelSettings(edge=0.25)
    )
    learner = threading.Thread(target=run, args=(adapter_server.home, settings, stop))
    learner.start()
    yield
    stop.set()
    learner.join(30)
    assert not learner.is_alive()


def vote_until_the_trial_ends(plaudit: Plaudit, challenger: int, preferred: float) -> DuelEnded:
    """Chat and vote for the challenger's answer with probability `preferred`; return the end."""
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
            for_challenger = source.random() < preferred
            better = (
                versions.index(challenger) if for_challenger else 1 - versions.index(challenger)
            )
            verdict = ("left", "right")[better]
            vote = {"kind": "comparison", "left": 0, "right": 1, "verdict": verdict}
            assert plaudit.vote(answer.id, vote, source="simulated").status_code == 201
    raise AssertionError("the trial did not end")


def test_votes_promote_a_better_adapter_and_roll_back_a_worse_one(
    adapter_server: Plaudit, next_version: int
) -> None:
    first, better, worse = adapter_server.version(), next_version, next_version + 1
    adapter_server.add_adapter(better, first, 1)
    adapter_server.announce(better, first, trial=True)
    won = vote_until_the_trial_ends(adapter_server, better, preferred=0.8)
    print(f"promoted after {won.wins} votes for it and {won.losses} against")
    assert (won.promoted, won.against) == (True, first)
    assert won.wins > won.losses
    adapter_server.wait_version(better)
    adapter_server.add_adapter(worse, better, 1)
    adapter_server.announce(worse, better, trial=True)
    lost = vote_until_the_trial_ends(adapter_server, worse, preferred=0.2)
    print(f"rolled back after {lost.wins} votes for it and {lost.losses} against")
    assert (lost.promoted, lost.against) == (False, better)
    assert lost.wins < lost.losses
    log = adapter_server.log
    state = current_state(log)
    log.close()
    assert (state.live, state.challenger, state.held) == (better, 0, False)
    assert worse in state.rolled_back
    time.sleep(0.5)
    answer = adapter_server.openai().chat.completions.create(
        model="plaudit", messages=QUESTION, n=2, max_tokens=4
    )
    assert [spans(c)[0][0] for c in adapter_server.records()[answer.id].choices] == [better] * 2


def test_an_operator_ends_a_trial(adapter_server: Plaudit, next_version: int) -> None:
    live = adapter_server.version()
    adapter_server.add_adapter(next_version, live, 1)
    adapter_server.announce(next_version, live, trial=True)
    adapter_server.append_event(Activated(version=next_version, by="test"))
    adapter_server.wait_version(next_version)
    log = adapter_server.log
    state = current_state(log)
    log.close()
    assert (state.live, state.challenger, state.held) == (next_version, 0, False)
