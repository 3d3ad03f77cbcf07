"""Bodies that are nearly right, on real vLLM: each is answered, or refused with OpenAI's error.

`PLAUDIT_FUZZ_EXAMPLES=5000` searches longer.
"""

import json
from typing import Any, Final

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.door import error_of
from tests.support.fuzzing import MESSAGES, SCALARS, TEXTS, VALUES, budget
from tests.support.servers import Plaudit

pytestmark = pytest.mark.timeout(1800)

_SMALL: Final = st.integers(-1, 3) | SCALARS
_SAMPLING: Final = {
    "n": _SMALL,
    "max_tokens": _SMALL,
    "stream": st.booleans() | VALUES,
    "stop": TEXTS | st.lists(TEXTS, max_size=5) | VALUES,
    "seed": _SMALL,
    "temperature": st.floats(0, 2) | SCALARS,
    "top_p": st.floats(0, 1) | SCALARS,
    "top_k": _SMALL,
    "min_p": SCALARS,
    "min_tokens": _SMALL,
    "presence_penalty": SCALARS,
    "repetition_penalty": SCALARS,
    "logit_bias": st.dictionaries(st.integers(-1, 300).map(str) | TEXTS, SCALARS, max_size=2),
    "user": TEXTS | VALUES,
    "model": st.just("plaudit") | VALUES,
    "priority": _SMALL,
    "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}) | VALUES,
    "allowed_token_ids": st.lists(st.integers(-1, 300), max_size=3) | VALUES,
    "bad_words": st.lists(TEXTS, max_size=2) | VALUES,
    "stop_token_ids": st.lists(st.integers(-1, 300), max_size=3) | VALUES,
    "prompt_logprobs": _SMALL,
    "truncate_prompt_tokens": _SMALL,
    "vllm_xargs": VALUES,
    "kv_transfer_params": VALUES,
    "cache_salt": TEXTS | VALUES,
    "request_id": TEXTS | VALUES,
    "metadata": VALUES,
}
_SCHEMAS: Final = st.sampled_from(
    [{"type": "object"}, {"type": "string", "pattern": "(a|b)"}, {"$ref": "#"}, {"enum": []}, True]
)
_CONSTRAINTS: Final = {
    "structured_outputs": st.fixed_dictionaries(
        {},
        optional={
            "choice": st.lists(TEXTS, max_size=2) | VALUES,
            "regex": st.sampled_from(["a+", "(", "[a-z]{1,3}"]) | TEXTS,
            "json": _SCHEMAS | VALUES,
            "grammar": st.just('root ::= "a"') | TEXTS,
        },
    )
    | VALUES,
    "response_format": st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "json_object", "json_schema", "x"])},
        optional={"json_schema": st.fixed_dictionaries({"name": TEXTS, "schema": _SCHEMAS})},
    )
    | VALUES,
}
_CHAT: Final = {
    **_SAMPLING,
    **_CONSTRAINTS,
    "logprobs": st.booleans() | VALUES,
    "top_logprobs": _SMALL,
    "max_completion_tokens": _SMALL,
    "tools": st.lists(st.fixed_dictionaries({"type": TEXTS, "function": VALUES}), max_size=2)
    | VALUES,
    "tool_choice": st.sampled_from(["auto", "none", "required"]) | VALUES,
    "chat_template": TEXTS | VALUES,
    "chat_template_kwargs": VALUES,
    "documents": VALUES,
    "add_generation_prompt": st.booleans() | VALUES,
    "continue_final_message": st.booleans() | VALUES,
    "echo": st.booleans() | VALUES,
    "reasoning_effort": TEXTS | VALUES,
    "mm_processor_kwargs": VALUES,
}
_HI: Final = st.just([{"role": "user", "content": "hi"}])
_IDS: Final = st.lists(st.integers(-1, 300), max_size=4)
_PROMPT: Final = st.just("hi") | TEXTS | _IDS | st.lists(TEXTS | _IDS, max_size=3) | VALUES
_ROUTES: Final = {
    "/v1/chat/completions": ("messages", _HI | MESSAGES | VALUES, _CHAT),
    "/v1/completions": (
        "prompt",
        _PROMPT,
        {**_SAMPLING, **_CONSTRAINTS, "logprobs": _SMALL, "echo": VALUES, "suffix": VALUES},
    ),
    "/v1/responses": (
        "input",
        _HI | MESSAGES | TEXTS | VALUES,
        {
            **_SAMPLING,
            "max_output_tokens": _SMALL,
            "instructions": TEXTS | VALUES,
            "previous_response_id": TEXTS | VALUES,
            "store": st.booleans() | VALUES,
            "background": st.booleans() | VALUES,
            "text": VALUES,
            "tools": VALUES,
            "include": VALUES,
            "reasoning": VALUES,
        },
    ),
    "/tokenize": (
        "messages",
        _HI | MESSAGES | VALUES,
        {"prompt": _PROMPT, "add_special_tokens": VALUES, "return_token_strs": VALUES},
    ),
    "/detokenize": ("tokens", _IDS | VALUES, {"model": VALUES}),
}


def bodies(path: str) -> st.SearchStrategy[dict[str, Any]]:
    """Return bodies of a route: its first field, short answers, and up to four fields more."""
    first, values, others = _ROUTES[path]
    more = st.sampled_from(sorted(others)).flatmap(
        lambda name: st.tuples(st.just(name), others[name])
    )
    base = st.fixed_dictionaries({first: values, "max_tokens": st.just(2)})
    if "max_output_tokens" in others:
        base = st.fixed_dictionaries({first: values, "max_output_tokens": st.just(2)})
    return st.builds(lambda body, fields: body | dict(fields), base, st.lists(more, max_size=4))


def check(response: httpx.Response) -> None:
    """Fail unless a response is an answer, or an error of the request's."""
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        error_of(response)
    elif response.headers["content-type"].startswith("text/event-stream"):
        for line in response.text.splitlines():
            if line.startswith("data: {") and "error" in (event := json.loads(line[6:])):
                assert event["error"] is None or event["error"].get("code") != 500, line
    else:
        response.json()


@pytest.mark.parametrize("path", _ROUTES)
def test_any_body_is_answered_or_refused(plaudit: Plaudit, path: str) -> None:
    headers = {"Authorization": f"Bearer {plaudit.key}", "Content-Type": "application/json"}
    statuses = set()
    with httpx.Client(base_url=plaudit.url, headers=headers, timeout=60) as client:

        @budget(40)
        @given(body=bodies(path))
        def search(body: dict[str, Any]) -> None:
            response = client.post(path, content=json.dumps(body).encode())
            statuses.add(response.status_code)
            check(response)

        search()
        assert {200, 400} <= statuses, "nothing was answered, or nothing refused"
        assert client.get("/readyz").status_code == 200


def test_any_feedback_is_stored_or_refused(plaudit: Plaudit) -> None:
    answer = plaudit.openai().chat.completions.create(
        model="plaudit", n=2, max_tokens=2, messages=[{"role": "user", "content": "hi"}]
    )
    feedback = st.fixed_dictionaries(
        {"kind": st.sampled_from(["rating", "comparison", "ranking", "correction", "x"]) | VALUES},
        optional={
            "choice": _SMALL,
            "left": _SMALL,
            "right": _SMALL,
            "value": st.sampled_from(["up", "down", 1, -1]) | VALUES,
            "verdict": st.sampled_from(["left", "right", "tie", "both_bad"]) | VALUES,
            "order": st.lists(_SMALL, max_size=3) | VALUES,
            "text": TEXTS | VALUES,
        },
    )
    body_of = st.fixed_dictionaries(
        {"completion_id": st.just(answer.id) | TEXTS | VALUES, "feedback": feedback | VALUES},
        optional={"user": TEXTS | VALUES, "comment": TEXTS | VALUES, "tags": VALUES},
    )
    headers = {"Authorization": f"Bearer {plaudit.key}", "Content-Type": "application/json"}
    with httpx.Client(base_url=plaudit.url, headers=headers, timeout=60) as client:

        @budget(60)
        @given(body=body_of)
        def search(body: dict[str, Any]) -> None:
            check(client.post("/v1/feedback", content=json.dumps(body).encode()))

        search()
