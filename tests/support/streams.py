"""Requests to a real server, and what its records say of them."""

import time
from typing import Any

from protos.plaudit.v1.completion_pb2 import Choice
from tests.support.servers import Plaudit

GREETING: list[Any] = [{"role": "user", "content": "Hi"}]


def said(plaudit: Plaudit) -> str:
    """Return what the policy says with a fixed seed: tells one set of weights from another.

    The likeliest tokens do not: with random weights and a tied output head, each is the last
    one again. Nor does a temperature of 1: all tokens are as likely then, and the seed decides.
    """
    answer = plaudit.openai().chat.completions.create(
        model="plaudit",
        messages=GREETING,
        temperature=0.2,
        seed=5,
        max_tokens=32,
        extra_body={"ignore_eos": True},
    )
    return answer.choices[0].message.content or ""


def spans(choice: Choice) -> list[tuple[int, int, int]]:
    return [(s.policy_version, s.start, s.end) for s in choice.versions]


async def one_stream(plaudit: Plaudit, tokens: int) -> tuple[str, list[int], list[str | None]]:
    counts, finishes, completion_id = [0, 0], [None, None], ""
    stream = await plaudit.async_openai().chat.completions.create(
        model="plaudit",
        messages=GREETING,
        n=2,
        max_tokens=tokens,
        stream=True,
        extra_body={"ignore_eos": True, "return_token_ids": True},
    )
    async for chunk in stream:
        completion_id = chunk.id
        for choice in chunk.choices:
            counts[choice.index] += len((choice.model_extra or {}).get("token_ids") or [])
            finishes[choice.index] = choice.finish_reason or finishes[choice.index]
    return completion_id, counts, finishes


def wait_failure(plaudit: Plaudit, version: int) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for event in plaudit.policy_events():
            if event.swap_failed.version == version:
                return event.swap_failed
        time.sleep(0.1)
    raise AssertionError("no failure was reported")
