"""The whole loop once: chat on real vLLM, vote, learn, and swap to version 2."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.learner_cycles import SETTINGS, environment_of
from tests.support.servers import Plaudit, start_up
from tests.support.votes import ask_yes_or_no

VOTES = 60
LEARNER = SETTINGS.model_copy(
    update={
        "min_events": VOTES,
        "reward": SETTINGS.reward.model_copy(update={"epochs": 20, "held_out_share": 0.3}),
    }
)


@pytest.fixture
def plaudit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plaudit]:
    compiled = tmp_path_factory.mktemp("compiled")
    environment = {
        **environment_of(LEARNER),
        "TORCHINDUCTOR_CACHE_DIR": str(compiled),
        "PLAUDIT_SERVING_POLL_SECONDS": ".1",
        "PLAUDIT_SERVING_ENFORCE_EAGER": "1",
    }
    server = start_up(tmp_path_factory.mktemp("loop") / "home", environment, imported=True)
    yield server
    assert server.stop() == 0
    assert not [*compiled.iterdir()], "an answer has waited for a compiler"


def chat_and_vote(plaudit: Plaudit, number: int) -> str:
    """Request two answers, vote for the preferred one, and return the vote's id."""
    completion, feedback = ask_yes_or_no(plaudit, number)
    response = plaudit.vote(completion, feedback)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def test_votes_lead_to_a_new_version_that_is_served(plaudit: Plaudit) -> None:
    assert plaudit.version() == 1
    with ThreadPoolExecutor(4) as pool:
        votes = list(pool.map(lambda number: chat_and_vote(plaudit, number), range(VOTES)))
    assert len(set(votes)) == VOTES
    plaudit.wait_version(2, seconds=240)
    answer = plaudit.openai().chat.completions.create(
        model="plaudit", max_tokens=4, messages=[{"role": "user", "content": "Hi"}]
    )
    (choice,) = plaudit.records()[answer.id].choices
    assert [span.policy_version for span in choice.versions] == [2]
    manifest = plaudit.registry.verify(2)
    assert (manifest.parent, manifest.learned_from.to_seq) == (1, VOTES)
    for vote in votes:
        found = httpx.get(f"{plaudit.url}/v1/feedback/{vote}", timeout=30).json()
        assert found["learned_in"] == 2
