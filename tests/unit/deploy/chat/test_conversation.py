"""`plaudit chat`, with lines in place of keys, against a server in a thread."""

from typing import Any

import pytest
from starlette.responses import Response
from typer.testing import CliRunner

from deploy.commands.main import app
from feedback.api.schema import FeedbackRequest
from tests.support.browser.stand_in import StandIn, error
from tests.support.servers import free_port

CHAT, VOTES = "/v1/chat/completions", "/v1/feedback"


def talk(server: StandIn, *lines: str, options: tuple[str, ...] = ()) -> str:
    """Run the command with lines of input; return what it prints."""
    command = ["chat", "--url", server.url, *options]
    done = CliRunner().invoke(app, command, input="".join(f"{line}\n" for line in lines))
    assert done.exit_code == 0, done.output
    return done.output


def votes(server: StandIn) -> list[Any]:
    """Return the feedback that the server has stored, after checking it against the API."""
    bodies = [{k: v for k, v in vote.items() if k != "id"} for vote in server.feedback.values()]
    return [FeedbackRequest.model_validate(body).model_dump()["feedback"] for body in bodies]


def refusal(status: int, code: str, **headers: str) -> Response:
    response = error(status, code, "Because.")
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


def test_a_vote_for_the_better_answer(server: StandIn) -> None:
    output = talk(server, "How do I make tea?", "b", options=("--user", "anna"))
    assert "A: Boil water.\nB: Ask a friend.\n" in output
    assert "Thank you. Version 1 answered; your vote counts for the next.\n" in output
    assert output.endswith("Goodbye.\n")
    (request,), (vote,) = server.chat_requests, server.feedback.values()
    assert (request["model"], request["n"], request["user"]) == ("plaudit", 2, "anna")
    assert (vote["completion_id"], vote["user"], vote["shown"]) == ("chatcmpl-1", "anna", [0, 1])
    assert votes(server) == [{"kind": "comparison", "left": 0, "right": 1, "verdict": "right"}]


@pytest.mark.parametrize(
    ("keys", "answer", "number"),
    [
        (["a"], "Boil water.", 1),
        (["b"], "Ask a friend.", 1),
        (["t"], "Boil water.", 1),
        ([""], "Boil water.", 0),
        (["x", "s"], "Boil water.", 0),
        (["c", "b", "Heat it."], "Heat it.", 1),
        (["c", "z", "c", "a", "", "b"], "Ask a friend.", 1),
    ],
)
def test_the_conversation_continues_with_the_chosen_answer(
    server: StandIn, keys: list[str], answer: str, number: int
) -> None:
    talk(server, "Tea?", *keys, "And then?")
    assert server.chat_requests[1]["messages"] == [
        {"role": "user", "content": "Tea?"},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "And then?"},
    ]
    assert len(server.feedback) == number


def test_a_correction_is_a_demonstration(server: StandIn) -> None:
    talk(server, "Tea?", "c", "b", "Heat it.")
    assert votes(server) == [{"kind": "demonstration", "choice": 1, "text": "Heat it."}]


def test_a_single_answer_has_no_label_and_gets_thumbs(server: StandIn) -> None:
    output = talk(server, "Tea?", "d", options=("--answers", "1"))
    assert "\nBoil water.\n[u: thumbs up, d: thumbs down" in output
    assert votes(server) == [{"kind": "rating", "choice": 0, "value": "down"}]


def test_several_answers_get_a_ranking(server: StandIn) -> None:
    output = talk(server, "Tea?", "d", options=("--answers", "4"))
    assert "\nD: No.\n" in output
    assert votes(server) == [{"kind": "ranking", "groups": [[3], [0, 1, 2]]}]


def test_q_ends_the_chat_without_a_vote(server: StandIn) -> None:
    output = talk(server, "Tea?", "q", "More?")
    assert output.endswith("Goodbye.\n")
    assert (len(server.chat_requests), server.feedback) == (1, {})


def test_a_new_live_version_is_reported_once(
    server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = iter([1, 1, 2, 2])
    monkeypatch.setattr("deploy.chat.client.Client.live_version", lambda _: next(live))
    output = talk(server, "One?", "s", "Two?", "s", "Three?", "s")
    assert output.count("Version 2 is live now, after version 1.\n") == 1
    assert output.index("You: Two?") < output.index("Version 2 is") < output.index("You: Three?")


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        (refusal(401, "invalid_api_key"), "a valid API key: give one with --api-key or"),
        (refusal(429, "rate_limit_exceeded", Retry_After="7"), "try again in 7 s\n"),
        (refusal(429, "insufficient_quota"), "try again tomorrow (UTC)\n"),
        (refusal(503, "not_ready", Retry_After="1"), "is not ready: try again in 1 s, or see"),
        (refusal(400, "invalid_value"), "the server refused the request (400): Because."),
    ],
)
def test_enter_sends_a_message_again_after_an_error(
    server: StandIn, response: Response, sentence: str
) -> None:
    server.refusals[CHAT] = [response]
    server.key = "key"
    output = talk(server, "Tea?", "", "a", "More?", options=("--api-key", "key"))
    assert sentence in output
    assert "Press Enter to send your message again.\n" in output
    sent = [request["messages"][-1]["content"] for request in server.chat_requests]
    assert sent == ["Tea?", "More?"]
    assert len(server.chat_requests[1]["messages"]) == 3
    assert len(server.feedback) == 1


def test_a_vote_that_failed_is_kept(server: StandIn) -> None:
    server.refusals[VOTES] = [refusal(503, "log_unavailable", Retry_After="5")]
    output = talk(server, "Tea?", "a", "More?", "b")
    assert "Your vote is kept, and sent with the next one.\n" in output
    assert output.count("Thank you.") == 1
    assert [vote["verdict"] for vote in votes(server)] == ["left", "right"]


def test_a_kept_vote_is_sent_at_the_end(server: StandIn) -> None:
    server.refusals[VOTES] = [refusal(503, "log_unavailable")]
    assert "could not be sent" not in talk(server, "Tea?", "a")
    assert len(server.feedback) == 1


def test_votes_that_could_not_be_sent_are_counted(server: StandIn) -> None:
    server.failing = True
    assert talk(server, "Tea?", "a").endswith("Votes that could not be sent: 1.\nGoodbye.\n")


def test_a_server_that_does_not_answer() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = CliRunner().invoke(app, ["chat", "--url", url], input="Tea?\n")
    assert done.exit_code == 0
    assert f"plaudit: no answer from {url}: start it with 'plaudit up'" in done.output


def test_an_answer_cannot_control_the_terminal(server: StandIn) -> None:
    server.answers = ["Red\x1b[31m\x07", "[bold]Two[/bold]\nlines"]
    assert "A: Red[31m\nB: [bold]Two[/bold]\nlines\n" in talk(server, "Tea?")
