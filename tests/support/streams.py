"""Send requests to a real server, and read what it recorded about them."""

import asyncio
import time
from typing import Any

from protos.plaudit.v1.completion_pb2 import Choice
from tests.support.servers import Plaudit

GREETING: list[Any] = [{"role": "user", "content": "Hi"}]


def fixed_seed_answer(plaudit: Plaudit) -> str:
    """Return the policy's answer at a fixed seed, which differs between sets of weights.

    Greedy decoding would not do: with random weights and a tied output head it repeats the last
    token. Nor would a temperature of 1: all tokens are about as likely, and the seed decides.
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
    """Return policy version, start and end of each span of a choice's tokens."""
    return [(s.policy_version, s.start, s.end) for s in choice.versions]


async def one_stream(
    plaudit: Plaudit, tokens: int, started: asyncio.Event | None = None
) -> tuple[str, list[int], list[str | None]]:
    """Stream two choices; return the id, and each choice's token count and finish reason.

    `started` is set when the first tokens have arrived.
    """
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
        if started is not None and sum(counts):
            started.set()
    return completion_id, counts, finishes


async def running_streams(
    plaudit: Plaudit, count: int, tokens: int
) -> list[asyncio.Task[tuple[str, list[int], list[str | None]]]]:
    """Start streams, and return their tasks when each has received tokens."""
    started = [asyncio.Event() for _ in range(count)]
    tasks = [asyncio.create_task(one_stream(plaudit, tokens, event)) for event in started]
    async with asyncio.timeout(120):
        for event in started:
            await event.wait()
    return tasks


def wait_for_swap_failure(plaudit: Plaudit, version: int) -> Any:
    """Wait for the event that a swap to `version` failed; return it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for event in plaudit.policy_events():
            if event.swap_failed.version == version:
                return event.swap_failed
        time.sleep(0.1)
    raise AssertionError("no swap failure was reported")
