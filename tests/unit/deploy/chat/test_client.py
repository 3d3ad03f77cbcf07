"""The requests of a chat."""

import pytest

from deploy.chat.client import Answers, Client
from deploy.chat.votes import RequestError, Vote
from deploy.errors import DeployError
from tests.support.browser.stand_in import StandIn, error


def test_answers_grow_while_they_stream(server: StandIn) -> None:
    client, answers = Client(f"{server.url}/", "none", None), Answers(["", ""])
    lengths = [len(a.texts[0]) for a in client.stream([{"role": "user", "content": "?"}], answers)]
    assert lengths[0] == len("Boil ")
    assert lengths[-1] == len("Boil water.")
    assert answers == Answers(["Boil water.", "Ask a friend."], "chatcmpl-1", 1)
    assert "user" not in server.chat_requests[0]
    assert client.live_version() == 1
    client.close()


def test_only_answers_that_have_begun_are_shown() -> None:
    assert Answers(["", "Two", "", "Four"]).shown() == [1, 3]


@pytest.mark.parametrize(
    ("status", "temporary"), [(400, False), (401, False), (409, False), (429, True), (503, True)]
)
def test_errors_that_may_pass_are_temporary(server: StandIn, status: int, temporary: bool) -> None:
    server.refusals["/v1/feedback"] = [error(status, "code", "Why.")]
    client = Client(server.url, "none", None)
    with pytest.raises(RequestError) as raised:
        client.send(Vote({"completion_id": "chatcmpl-1"}))
    assert raised.value.temporary is temporary
    client.close()


def test_a_malformed_url_is_an_error_that_says_what_to_give() -> None:
    with pytest.raises(DeployError, match="give one such as http://127"):
        Client("http://[::1", "none", None)
