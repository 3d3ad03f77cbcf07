"""Adapters and duels on real vLLM: no pause, old requests on the old version, blind halves."""

import asyncio
import itertools
import time
from typing import Any

import httpx
import pytest

from deploy.administration.policies import operations
from protos.plaudit.v1.policy_pb2 import Activated, DuelEnded, Hold, Swapped
from tests.support.servers import Plaudit
from tests.support.streams import one_stream, said, spans, wait_failure

QUESTION: list[Any] = [{"role": "user", "content": "What is the sea like at night? " * 8}]
TOKENS = 700


def activate(plaudit: Plaudit, version: int) -> None:
    """Choose a version, let publishing go on, and wait."""
    plaudit.tell(Activated(version=version, by="test"))
    plaudit.tell(Hold(held=False, by="test"))
    plaudit.wait_version(version)


def publish_adapter(plaudit: Plaudit, version: int, base: int) -> None:
    plaudit.add_adapter(version, plaudit.version(), base)
    plaudit.announce(version, plaudit.version())
    plaudit.wait_version(version)


def last_swap(plaudit: Plaudit, version: int) -> Swapped:
    swaps = [e.swapped for e in plaudit.policy_events() if e.HasField("swapped")]
    return [s for s in swaps if s.version == version][-1]


async def timed_stream(plaudit: Plaudit, gaps: list[tuple[float, float]]) -> str:
    """Stream one long answer; note when each chunk came and how long after the one before."""
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
    adapted: Plaudit, next_version: int
) -> None:
    old, new = next_version, next_version + 1
    publish_adapter(adapted, old, 1)
    adapted.add_adapter(new, old, 1)
    gaps: list[list[tuple[float, float]]] = [[] for _ in range(16)]
    streams = [asyncio.create_task(timed_stream(adapted, own)) for own in gaps]
    await asyncio.sleep(1.5)
    told_at = time.time()
    await asyncio.to_thread(adapted.announce, new, old)
    await asyncio.to_thread(adapted.wait_version, new)
    live_at = time.time()
    assert not any(s.done() for s in streams), "no stream lived through it: this shows nothing"
    young = await one_stream(adapted, 40)
    assert not any(s.done() for s in streams), "old and new never ran side by side"
    old_ids = await asyncio.gather(*streams)
    records = adapted.records()
    for completion_id in old_ids:
        assert [spans(c) for c in records[completion_id].choices] == [[(old, 0, TOKENS)]]
    assert [spans(c) for c in records[young[0]].choices] == [[(new, 0, 40)]] * 2
    assert last_swap(adapted, new).pause_seconds == 0
    around = [0.0, *(g for own in gaps for t, g in own if told_at < t < live_at + 0.5)]
    usual = [g for own in gaps for t, g in own if not told_at < t < live_at + 0.5]
    print(f"longest gap while it went live {max(around):.3f} s, else {max(usual):.3f} s")


def test_the_fingerprint_says_the_version_of_the_answer_at_hand(
    adapted: Plaudit, next_version: int
) -> None:
    publish_adapter(adapted, next_version, 1)
    client = adapted.openai()
    slow = client.chat.completions.create(
        model="plaudit",
        messages=QUESTION,
        max_tokens=400,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    first = next(iter(slow))
    publish_adapter(adapted, next_version + 1, 1)
    quick = client.chat.completions.create(model="plaudit", messages=QUESTION, max_tokens=2)
    assert quick.system_fingerprint == f"policy-v{next_version + 1}"
    *_, last = slow
    assert last.id == first.id
    assert last.system_fingerprint == f"policy-v{next_version}"


def test_each_version_answers_by_itself_whatever_is_cached(
    adapted: Plaudit, next_version: int
) -> None:
    """The prompt is longer than a cache block: another version's cache would change answers."""
    activate(adapted, 1)
    answers = {1: said(adapted)}
    for version in (next_version, next_version + 1):
        publish_adapter(adapted, version, 1)
        answers[version] = said(adapted)
    assert len(set(answers.values())) == 3
    for version in (next_version, 1, next_version + 1):
        activate(adapted, version)
        assert said(adapted) == answers[version]


def test_a_rollback_to_the_base_or_to_an_adapter_has_no_pause(
    adapted: Plaudit, next_version: int
) -> None:
    activate(adapted, 1)
    base = said(adapted)
    publish_adapter(adapted, next_version, 1)
    assert said(adapted) != base
    operations(adapted.home).rollback("test")
    adapted.wait_version(1)
    assert said(adapted) == base
    assert last_swap(adapted, 1).pause_seconds == 0
    operations(adapted.home).resume("test")


async def test_another_base_is_swapped_in_first(adapted: Plaudit, next_version: int) -> None:
    before, other_base, adapter = range(next_version, next_version + 3)
    await asyncio.to_thread(publish_adapter, adapted, before, 1)
    await asyncio.to_thread(adapted.add_checkpoint, other_base, 1, other_base)
    await asyncio.to_thread(adapted.add_adapter, adapter, 1, other_base)
    streams = [asyncio.create_task(one_stream(adapted, 300)) for _ in range(4)]
    await asyncio.sleep(1)
    await asyncio.to_thread(adapted.announce, adapter, before)
    await asyncio.to_thread(adapted.wait_version, adapter)
    results = await asyncio.gather(*streams)
    assert last_swap(adapted, adapter).pause_seconds > 0
    records = adapted.records()
    for completion_id, counts, finishes in results:
        assert finishes == ["length", "length"]
        assert counts == [300, 300]
        for choice in records[completion_id].choices:
            versions = [v for v, _, _ in spans(choice)]
            assert all(a[2] == b[1] for a, b in itertools.pairwise(spans(choice)))
            assert versions in ([before], [adapter]), "an adapter ran on another's base"
    with_adapter = await asyncio.to_thread(said, adapted)
    await asyncio.to_thread(activate, adapted, 1)
    assert await asyncio.to_thread(said, adapted) != with_adapter


@pytest.mark.parametrize("step", ["stage", "adapter"])
def test_an_adapter_that_fails_to_load_leaves_the_old_policy(
    adapted: Plaudit, next_version: int, step: str
) -> None:
    before, old = adapted.version(), said(adapted)
    (adapted.home / "failpoints").write_text(f"swap.{step}=raise\n")
    adapted.add_adapter(next_version, before, 1)
    adapted.announce(next_version, before)
    failed = wait_failure(adapted, next_version)
    assert (failed.serving, adapted.version()) == (before, before)
    assert said(adapted) == old


def test_an_adapter_of_too_high_a_rank_is_refused(adapted: Plaudit, next_version: int) -> None:
    before = adapted.version()
    adapted.add_adapter(next_version, before, 1, rank=9)
    adapted.announce(next_version, before)
    assert "rank 9" in wait_failure(adapted, next_version).reason
    assert adapted.version() == before


def wait_duel(plaudit: Plaudit, live: int, challenger: int) -> None:
    """Ask until an answer has a choice from each."""
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
    live = 1
    activate(plaudit, live)
    plaudit.add_adapter(challenger, live, 1)
    plaudit.announce(challenger, live, trial=True)
    wait_duel(plaudit, live, challenger)
    return live


def test_a_duel_has_a_choice_of_each_in_random_order_and_is_blind(
    adapted: Plaudit, next_version: int
) -> None:
    live = start_duel(adapted, next_version)
    placed = []
    for stream in (True, False) * 8:
        body = {"model": "plaudit", "messages": QUESTION, "n": 2, "max_tokens": 20}
        response = httpx.post(
            f"{adapted.url}/v1/chat/completions",
            json={**body, "stream": stream, "ignore_eos": True},
            timeout=60,
        )
        assert response.status_code == 200
        assert f"policy-v{live}" in response.text
        assert f"policy-v{next_version}" not in response.text
        completion_id = "chatcmpl-" + response.text.partition('"id":"chatcmpl-')[2].split('"')[0]
        choices = adapted.records()[completion_id].choices
        placed.append(tuple(v for c in choices for v, _, _ in spans(c)))
        assert [len(c.token_ids) for c in choices] == [20, 20]
        assert [c.finish_reason for c in choices] == ["length", "length"]
    assert set(placed) == {(live, next_version), (next_version, live)}
    assert adapted.version() == live
    adapted.tell(DuelEnded(version=next_version, against=live, promoted=False))


def test_in_a_duel_each_choice_is_what_its_version_says_alone(
    adapted: Plaudit, next_version: int
) -> None:
    live = start_duel(adapted, next_version)
    options: Any = {
        "model": "plaudit",
        "messages": QUESTION,
        "max_tokens": 24,
        "extra_body": {"top_k": 1},  # vLLM takes temperature 0 for one choice only
    }
    client = adapted.openai()
    both = client.chat.completions.create(n=2, **options)
    recorded = adapted.records()[both.id].choices
    said = {spans(c)[0][0]: c.text for c in recorded}
    assert [c.text for c in recorded] == [c.message.content for c in both.choices]
    chunks = list(client.chat.completions.create(n=2, stream=True, **options))
    streamed = ["", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    record = adapted.records()[chunks[0].id]
    assert {spans(c)[0][0]: c.text for c in record.choices} == said
    assert [c.text for c in record.choices] == streamed
    alone = client.chat.completions.create(**options).choices[0].message.content
    adapted.tell(DuelEnded(version=next_version, against=live, promoted=True))
    adapted.wait_version(next_version)
    promoted = client.chat.completions.create(**options).choices[0].message.content
    assert said == {live: alone, next_version: promoted}


def test_a_duel_that_is_lost_leaves_all_traffic_to_the_live_version(
    adapted: Plaudit, next_version: int
) -> None:
    live = start_duel(adapted, next_version)
    adapted.tell(DuelEnded(version=next_version, against=live, promoted=False))
    time.sleep(1)
    for _ in range(4):
        answer = adapted.openai().chat.completions.create(
            model="plaudit", messages=QUESTION, n=2, max_tokens=4
        )
        choices = adapted.records()[answer.id].choices
        assert {v for c in choices for v, _, _ in spans(c)} == {live}


def test_a_client_that_leaves_a_duel_leaves_both_halves_recorded(
    adapted: Plaudit, next_version: int
) -> None:
    live = start_duel(adapted, next_version)
    stream = adapted.openai().chat.completions.create(
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
    while chunk.id not in adapted.records():
        assert time.monotonic() < deadline, "no record of the abandoned duel"
        time.sleep(0.1)
    record = adapted.records()[chunk.id]
    assert [c.finish_reason for c in record.choices] == ["abort", "abort"]
    assert {v for c in record.choices for v, _, _ in spans(c)} == {live, next_version}
    metrics = httpx.get(f"{adapted.url}/metrics/").text
    running = [line for line in metrics.splitlines() if line.startswith("vllm:num_requests_run")]
    assert running
    assert all(line.endswith(" 0.0") for line in running), "vLLM works on for nobody"
    adapted.tell(DuelEnded(version=next_version, against=live, promoted=False))
