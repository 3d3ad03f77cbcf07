"""Adapters and duels on real vLLM: swaps without a pause, old requests, blind answers."""

import asyncio
import itertools
import time
from typing import Any

import httpx
import pytest

from deploy.administration.policies import operations
from protos.plaudit.v1.policy_pb2 import Activated, DuelEnded, Hold, Swapped
from tests.support.servers import Plaudit
from tests.support.streams import (
    fixed_seed_answer,
    one_stream,
    running_streams,
    spans,
    wait_for_swap_failure,
)

QUESTION: list[Any] = [{"role": "user", "content": "What is the sea like at night? " * 8}]
TOKENS = 700


def activate(plaudit: Plaudit, version: int) -> None:
    """Activate a version, end the hold, and wait until the version is live."""
    plaudit.append_event(Activated(version=version, by="test"))
    plaudit.append_event(Hold(held=False, by="test"))
    plaudit.wait_version(version)


def publish_adapter(plaudit: Plaudit, version: int, base: int) -> None:
    plaudit.add_adapter(version, plaudit.version(), base)
    plaudit.announce(version, plaudit.version())
    plaudit.wait_version(version)


def last_swap(plaudit: Plaudit, version: int) -> Swapped:
    swaps = [e.swapped for e in plaudit.policy_events() if e.HasField("swapped")]
    return [s for s in swaps if s.version == version][-1]


async def timed_stream(plaudit: Plaudit, gaps: list[tuple[float, float]]) -> str:
    """Stream one long answer; append the time of each chunk and its gap to the previous one."""
    last = 0.0
    stream = await plaudit.async_openai().chat.completions.create(
        model="plaudit",
        messages=QUESTION,
        max_tokens=TOKENS,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    finish = None
    async for chunk in stream:
        now = time.time()
        if last:
            gaps.append((now, now - last))
        last = now
        finish = chunk.choices[0].finish_reason or finish
    assert finish == "length"
    return chunk.id


async def test_an_adapter_goes_live_under_16_streams_with_no_pause(
    adapter_server: Plaudit, next_version: int
) -> None:
    old, new = next_version, next_version + 1
    publish_adapter(adapter_server, old, 1)
    adapter_server.add_adapter(new, old, 1)
    gaps: list[list[tuple[float, float]]] = [[] for _ in range(16)]
    streams = [
        asyncio.create_task(timed_stream(adapter_server, stream_gaps)) for stream_gaps in gaps
    ]
    async with asyncio.timeout(120):
        while not all(gaps):  # until every stream has received tokens
            await asyncio.sleep(0.05)
    announced_at = time.time()
    await asyncio.to_thread(adapter_server.announce, new, old)
    await asyncio.to_thread(adapter_server.wait_version, new)
    live_at = time.time()
    assert not any(s.done() for s in streams), (
        "no stream ran during the swap, so the test shows nothing"
    )
    started = asyncio.Event()
    new_task = asyncio.create_task(one_stream(adapter_server, 40, started))
    await started.wait()
    assert not any(s.done() for s in streams), "old and new version never ran together"
    new_stream = await new_task
    old_ids = await asyncio.gather(*streams)
    records = adapter_server.records()
    for completion_id in old_ids:
        assert [spans(c) for c in records[completion_id].choices] == [[(old, 0, TOKENS)]]
    assert [spans(c) for c in records[new_stream[0]].choices] == [[(new, 0, 40)]] * 2
    assert last_swap(adapter_server, new).pause_seconds == 0
    during_swap = [
        0.0,
        *(g for stream_gaps in gaps for t, g in stream_gaps if announced_at < t < live_at + 0.5),
    ]
    usual = [
        g for stream_gaps in gaps for t, g in stream_gaps if not announced_at < t < live_at + 0.5
    ]
    print(f"longest gap during the swap {max(during_swap):.3f} s, otherwise {max(usual):.3f} s")


def test_the_fingerprint_names_the_version_of_the_answer(
    adapter_server: Plaudit, next_version: int
) -> None:
    publish_adapter(adapter_server, next_version, 1)
    client = adapter_server.openai()
    slow = client.chat.completions.create(
        model="plaudit",
        messages=QUESTION,
        max_tokens=400,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    first = next(iter(slow))
    publish_adapter(adapter_server, next_version + 1, 1)
    quick = client.chat.completions.create(model="plaudit", messages=QUESTION, max_tokens=2)
    assert quick.system_fingerprint == f"policy-v{next_version + 1}"
    *_, last = slow
    assert last.id == first.id
    assert last.system_fingerprint == f"policy-v{next_version}"


def test_versions_do_not_share_cached_prefixes(adapter_server: Plaudit, next_version: int) -> None:
    """The prompt is longer than a cache block, so a shared cache would change the answers."""
    activate(adapter_server, 1)
    answers = {1: fixed_seed_answer(adapter_server)}
    for version in (next_version, next_version + 1):
        publish_adapter(adapter_server, version, 1)
        answers[version] = fixed_seed_answer(adapter_server)
    assert len(set(answers.values())) == 3
    for version in (next_version, 1, next_version + 1):
        activate(adapter_server, version)
        assert fixed_seed_answer(adapter_server) == answers[version]


def test_a_rollback_to_the_base_or_to_an_adapter_has_no_pause(
    adapter_server: Plaudit, next_version: int
) -> None:
    activate(adapter_server, 1)
    base = fixed_seed_answer(adapter_server)
    publish_adapter(adapter_server, next_version, 1)
    assert fixed_seed_answer(adapter_server) != base
    operations(adapter_server.home).rollback("test")
    adapter_server.wait_version(1)
    assert fixed_seed_answer(adapter_server) == base
    assert last_swap(adapter_server, 1).pause_seconds == 0
    operations(adapter_server.home).resume("test")


async def test_an_adapter_of_another_base_swaps_the_base_first(
    adapter_server: Plaudit, next_version: int
) -> None:
    before, other_base, adapter = range(next_version, next_version + 3)
    await asyncio.to_thread(publish_adapter, adapter_server, before, 1)
    await asyncio.to_thread(adapter_server.add_checkpoint, other_base, 1, other_base)
    await asyncio.to_thread(adapter_server.add_adapter, adapter, 1, other_base)
    streams = await running_streams(adapter_server, 4, 300)
    await asyncio.to_thread(adapter_server.announce, adapter, before)
    await asyncio.to_thread(adapter_server.wait_version, adapter)
    results = await asyncio.gather(*streams)
    assert last_swap(adapter_server, adapter).pause_seconds > 0
    records = adapter_server.records()
    for completion_id, counts, finishes in results:
        assert finishes == ["length", "length"]
        assert counts == [300, 300]
        for choice in records[completion_id].choices:
            versions = [v for v, _, _ in spans(choice)]
            assert all(a[2] == b[1] for a, b in itertools.pairwise(spans(choice)))
            assert versions in ([before], [adapter]), "an adapter ran on the wrong base"
    with_adapter = await asyncio.to_thread(fixed_seed_answer, adapter_server)
    await asyncio.to_thread(activate, adapter_server, 1)
    assert await asyncio.to_thread(fixed_seed_answer, adapter_server) != with_adapter


@pytest.mark.parametrize("step", ["stage", "adapter"])
def test_an_adapter_that_fails_to_load_leaves_the_old_policy(
    adapter_server: Plaudit, next_version: int, step: str
) -> None:
    before, old = adapter_server.version(), fixed_seed_answer(adapter_server)
    (adapter_server.home / "failpoints").write_text(f"swap.{step}=raise\n")
    adapter_server.add_adapter(next_version, before, 1)
    adapter_server.announce(next_version, before)
    failed = wait_for_swap_failure(adapter_server, next_version)
    assert (failed.serving, adapter_server.version()) == (before, before)
    assert fixed_seed_answer(adapter_server) == old


def test_an_adapter_of_too_high_rank_is_refused(adapter_server: Plaudit, next_version: int) -> None:
    before = adapter_server.version()
    adapter_server.add_adapter(next_version, before, 1, rank=9)
    adapter_server.announce(next_version, before)
    assert "rank 9" in wait_for_swap_failure(adapter_server, next_version).reason
    assert adapter_server.version() == before


def wait_duel(plaudit: Plaudit, live: int, challenger: int) -> None:
    """Send requests until an answer has a choice of each version."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        answer = plaudit.openai().chat.completions.create(
            model="plaudit", messages=QUESTION, n=2, max_tokens=2
        )
        choices = plaudit.records()[answer.id].choices
        if {v for c in choices for v, _, _ in spans(c)} == {live, challenger}:
            return
    raise AssertionError("no duel was served")


def start_duel(plaudit: Plaudit, challenger: int) -> int:
    """Start a trial of a new adapter against version 1; return the live version."""
    live = 1
    activate(plaudit, live)
    plaudit.add_adapter(challenger, live, 1)
    plaudit.announce(challenger, live, trial=True)
    wait_duel(plaudit, live, challenger)
    return live


def test_a_duel_has_a_choice_of_each_in_random_order_and_is_blind(
    adapter_server: Plaudit, next_version: int
) -> None:
    live = start_duel(adapter_server, next_version)
    orders = []
    for stream in (True, False) * 8:
        body = {"model": "plaudit", "messages": QUESTION, "n": 2, "max_tokens": 20}
        response = httpx.post(
            f"{adapter_server.url}/v1/chat/completions",
            json={**body, "stream": stream, "ignore_eos": True},
            timeout=60,
        )
        assert response.status_code == 200
        assert f"policy-v{live}" in response.text
        assert f"policy-v{next_version}" not in response.text
        completion_id = "chatcmpl-" + response.text.partition('"id":"chatcmpl-')[2].split('"')[0]
        choices = adapter_server.records()[completion_id].choices
        orders.append(tuple(v for c in choices for v, _, _ in spans(c)))
        assert [len(c.token_ids) for c in choices] == [20, 20]
        assert [c.finish_reason for c in choices] == ["length", "length"]
    assert set(orders) == {(live, next_version), (next_version, live)}
    assert adapter_server.version() == live
    adapter_server.append_event(DuelEnded(version=next_version, against=live, promoted=False))


@pytest.mark.parametrize("greedy", [{"temperature": 0}, {"extra_body": {"top_k": 1}}, {"seed": 7}])
def test_answers_that_are_the_same_each_time_are_no_duels(
    adapter_server: Plaudit, next_version: int, greedy: dict[str, Any]
) -> None:
    live = start_duel(adapter_server, next_version)
    options: Any = {"model": "plaudit", "messages": QUESTION, "max_tokens": 24, **greedy}
    client = adapter_server.openai()
    alone = client.chat.completions.create(**options).choices[0].message.content
    for _ in range(4):
        both = client.chat.completions.create(n=2, **options)
        assert {spans(c)[0][0] for c in adapter_server.records()[both.id].choices} == {live}
        assert both.choices[0].message.content == alone
    adapter_server.append_event(DuelEnded(version=next_version, against=live, promoted=False))


def test_each_choice_of_a_duel_is_recorded_as_it_was_sent(
    adapter_server: Plaudit, next_version: int
) -> None:
    live = start_duel(adapter_server, next_version)
    options: Any = {"model": "plaudit", "messages": QUESTION, "max_tokens": 24, "n": 2}
    client = adapter_server.openai()
    both = client.chat.completions.create(**options)
    recorded = adapter_server.records()[both.id].choices
    assert {spans(c)[0][0] for c in recorded} == {live, next_version}
    assert [c.text for c in recorded] == [c.message.content for c in both.choices]
    chunks = list(client.chat.completions.create(stream=True, **options))
    streamed = ["", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    record = adapter_server.records()[chunks[0].id]
    assert [c.text for c in record.choices] == streamed
    adapter_server.append_event(DuelEnded(version=next_version, against=live, promoted=True))
    adapter_server.wait_version(next_version)


def test_after_a_lost_trial_the_live_version_serves_all_traffic(
    adapter_server: Plaudit, next_version: int
) -> None:
    live = start_duel(adapter_server, next_version)
    adapter_server.append_event(DuelEnded(version=next_version, against=live, promoted=False))
    time.sleep(1)
    for _ in range(4):
        answer = adapter_server.openai().chat.completions.create(
            model="plaudit", messages=QUESTION, n=2, max_tokens=4
        )
        choices = adapter_server.records()[answer.id].choices
        assert {v for c in choices for v, _, _ in spans(c)} == {live}


def test_an_abandoned_duel_is_recorded_with_both_choices(
    adapter_server: Plaudit, next_version: int
) -> None:
    live = start_duel(adapter_server, next_version)
    stream = adapter_server.openai().chat.completions.create(
        model="plaudit",
        messages=QUESTION,
        n=2,
        max_tokens=600,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    chunk = list(itertools.islice(stream, 20))[-1]
    stream.close()
    deadline = time.monotonic() + 20
    while chunk.id not in adapter_server.records():
        assert time.monotonic() < deadline, "no record of the abandoned duel"
        time.sleep(0.1)
    record = adapter_server.records()[chunk.id]
    assert [c.finish_reason for c in record.choices] == ["abort", "abort"]
    assert {v for c in record.choices for v, _, _ in spans(c)} == {live, next_version}
    metrics = httpx.get(f"{adapter_server.url}/metrics/").text
    running = [line for line in metrics.splitlines() if line.startswith("vllm:num_requests_run")]
    assert running
    assert all(line.endswith(" 0.0") for line in running), (
        "vLLM still generates for the abandoned request"
    )
    adapter_server.append_event(DuelEnded(version=next_version, against=live, promoted=False))
