"""The chat and completion endpoints on real vLLM: streams, records, ids, errors and votes."""

import itertools
import time
from typing import Any

import httpx
import openai
import pytest

from tests.support.servers import Plaudit

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def stream(plaudit: Plaudit, n: int = 2, max_tokens: int = 24, **options: Any) -> list[Any]:
    return list(
        plaudit.openai().chat.completions.create(
            model="plaudit", messages=HELLO, n=n, max_tokens=max_tokens, stream=True, **options
        )
    )


def texts(chunks: list[Any], n: int) -> list[str]:
    out = [""] * n
    for chunk in chunks:
        for choice in chunk.choices:
            out[choice.index] += choice.delta.content or ""
    return out


def test_choices_stream_token_by_token_and_interleaved(plaudit: Plaudit) -> None:
    chunks = stream(plaudit, n=2, extra_body={"ignore_eos": True})
    order = [c.choices[0].index for c in chunks if c.choices and c.choices[0].delta.content]
    assert set(order) == {0, 1}
    switches = sum(a != b for a, b in itertools.pairwise(order))
    assert switches > 5, f"choices were streamed one after the other: {order}"
    assert len({c.id for c in chunks}) == 1
    assert chunks[-1].system_fingerprint == f"policy-v{plaudit.version()}"


def test_a_record_contains_what_was_streamed(plaudit: Plaudit) -> None:
    chunks = stream(plaudit, n=3, user="anna")
    record = plaudit.records()[chunks[0].id]
    assert [c.text for c in record.choices] == texts(chunks, 3)
    assert record.owner != "local"
    assert plaudit.key not in record.owner
    assert record.subject
    assert "anna" not in record.subject
    assert [(m.role, m.content) for m in record.messages] == [("user", "Hello")]
    assert record.sampling.off_policy_usable
    version = plaudit.version()
    for choice in record.choices:
        assert len(choice.token_ids) == len(choice.log_probs) > 0
        assert all(p <= 0 for p in choice.log_probs)
        assert choice.finish_reason in ("stop", "length")
        spans = [(s.policy_version, s.start, s.end) for s in choice.versions]
        assert spans == [(version, 0, len(choice.token_ids))]


def test_the_record_is_durable_before_the_last_finish_is_sent(plaudit: Plaudit) -> None:
    finishes = 0
    for chunk in plaudit.openai().chat.completions.create(
        model="plaudit", messages=HELLO, n=2, max_tokens=12, stream=True
    ):
        finishes += sum(c.finish_reason is not None for c in chunk.choices)
        if finishes == 2:
            assert chunk.id in plaudit.records()
            return
    pytest.fail("two choices never finished")


def test_filtered_sampling_is_recorded_as_unusable_off_policy(plaudit: Plaudit) -> None:
    chunks = stream(plaudit, n=1, top_p=0.5)
    assert not plaudit.records()[chunks[0].id].sampling.off_policy_usable


def test_log_probs_are_those_of_the_distribution_sampled_from(plaudit: Plaudit) -> None:
    """At a low temperature the sampled token is nearly certain; raw log-probabilities differ."""
    chunks = stream(plaudit, n=1, temperature=0.01)
    assert sum(plaudit.records()[chunks[0].id].choices[0].log_probs) > -1e-2


def test_text_completions_are_recorded_and_batches_are_not(plaudit: Plaudit) -> None:
    client = plaudit.openai()
    one = client.completions.create(model="plaudit", prompt="Once", max_tokens=8, n=2)
    record = plaudit.records()[one.id]
    assert record.prompt == "Once"
    assert [c.text for c in record.choices] == [c.text for c in one.choices]
    batch = client.completions.create(model="plaudit", prompt=["a", "b"], max_tokens=4)
    assert len(batch.choices) == 2
    assert batch.id not in plaudit.records()
    vote = {"kind": "rating", "choice": 0, "value": "up"}
    assert plaudit.vote(batch.id, vote).status_code == 400


def test_an_abandoned_stream_leaves_a_record_to_vote_on(plaudit: Plaudit) -> None:
    answer = plaudit.openai().chat.completions.create(
        model="plaudit",
        messages=HELLO,
        n=2,
        max_tokens=600,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    seen = ["", ""]
    for chunk in answer:
        completion_id = chunk.id
        for choice in chunk.choices:
            seen[choice.index] += choice.delta.content or ""
        if all(len(text) > 10 for text in seen):
            break
    answer.close()
    deadline = time.monotonic() + 20
    while completion_id not in plaudit.records():
        assert time.monotonic() < deadline, "no record of the abandoned answer"
        time.sleep(0.1)
    record = plaudit.records()[completion_id]
    for choice, text in zip(record.choices, seen, strict=True):
        assert choice.finish_reason == "abort"
        assert choice.text.startswith(text)
        assert len(choice.token_ids) < 600
        assert choice.versions[-1].end == len(choice.token_ids)
    vote = {"kind": "comparison", "left": 0, "right": 1, "verdict": "left"}
    assert plaudit.vote(completion_id, vote).status_code == 201


def test_the_server_ignores_the_clients_request_id(plaudit: Plaudit) -> None:
    answer = plaudit.openai().chat.completions.create(
        model="plaudit", messages=HELLO, max_tokens=2, extra_headers={"X-Request-Id": "mine"}
    )
    assert answer.id.startswith("chatcmpl-")
    assert "mine" not in answer.id


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"use_beam_search": True, "n": 2}, "use_beam_search"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"n": "two"}, "n"),
        ({"user": 7}, "user"),
    ],
)
def test_bad_chats_get_a_clear_400(plaudit: Plaudit, body: dict[str, Any], param: str) -> None:
    response = plaudit.post("/v1/chat/completions", {"model": "plaudit", "messages": HELLO, **body})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_an_unknown_model_gets_a_404(plaudit: Plaudit) -> None:
    with pytest.raises(openai.NotFoundError):
        plaudit.openai().chat.completions.create(model="other", messages=HELLO)


def test_only_the_listed_routes_exist(plaudit: Plaudit) -> None:
    assert [m.id for m in plaudit.openai().models.list()] == ["plaudit"]
    for path in ("/livez", "/readyz", "/health", "/metrics/"):
        assert httpx.get(plaudit.url + path).status_code == 200, path
    disabled = (
        "/scale_elastic_ep",
        "/pause",
        "/redoc",
        "/v1/load_lora_adapter",
    )
    for path in disabled:
        assert plaudit.post(path, {}).status_code == 404, path


def test_metrics_are_exported(plaudit: Plaudit) -> None:
    stream(plaudit, n=2)
    text = httpx.get(f"{plaudit.url}/metrics/").text
    for name in (
        'plaudit_completions_total{outcome="finished"}',
        "plaudit_candidates_total{",
        "plaudit_active_policy_version",
        "plaudit_log_append_seconds_bucket",
    ):
        assert name in text, name
