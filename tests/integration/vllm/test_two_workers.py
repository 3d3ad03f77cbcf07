"""A model split over two workers on a CPU: served, swapped, and a worker that fails in a swap.

Each token takes two processes that wait for each other, so answers are short here.
"""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from deploy.administration.policies import operations
from learner.models.adapters import merge_adapter
from learner.models.loading import load_model
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from tests.support.servers import Plaudit, running_server
from tests.support.streams import GREETING, running_streams, spans, wait_for_swap_failure

TOKENS = 12
STREAM_TOKENS = 24

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two workers need two cores"),
]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plaudit]:
    home: Path = tmp_path_factory.mktemp("split")
    environment = {
        "PLAUDIT_FAILPOINTS": str(home / "failpoints"),
        "PLAUDIT_SERVING_POLL_SECONDS": ".1",
        "PLAUDIT_SERVING_ENFORCE_EAGER": "1",
        "PLAUDIT_SERVING_LORA_RANK": "8",
        "PLAUDIT_SERVING_VLLM_ARGUMENTS": "--tensor-parallel-size 2",
        "VLLM_CPU_OMP_THREADS_BIND": "0|1",
    }
    with running_server(home, environment) as server:
        yield server


def greedy(plaudit: Plaudit) -> CompletionRecord:
    answer = plaudit.openai().chat.completions.create(
        model="plaudit",
        messages=GREETING,
        temperature=0,
        max_tokens=TOKENS,
        extra_body={"ignore_eos": True},
    )
    return plaudit.records()[answer.id]


def assert_answers_of(
    plaudit: Plaudit, record: CompletionRecord, version: int, base: int | None = None
) -> None:
    """Fail unless the answer is that of a version in one piece: full weights, or an adapter."""
    (choice,) = record.choices
    assert spans(choice) == [(version, 0, TOKENS)]
    model = load_model(plaudit.registry.path(base or version))
    if base is not None:
        model = merge_adapter(model, plaudit.registry.path(version))
    ids = torch.tensor([[*record.prompt_token_ids, *choice.token_ids]])
    logits = model(input_ids=ids).logits[0, len(record.prompt_token_ids) - 1 : -1]
    assert logits.argmax(-1).tolist() == list(choice.token_ids)


async def test_a_split_model_serves_and_swaps_under_streams(split: Plaudit) -> None:
    assert_answers_of(split, await asyncio.to_thread(greedy, split), 1)
    split.add_checkpoint(2, 1, 2)
    streams = await running_streams(split, 4, STREAM_TOKENS)
    await asyncio.to_thread(split.announce, 2, 1)
    results = await asyncio.gather(*streams)
    await asyncio.to_thread(split.wait_version, 2)
    records = split.records()
    for completion_id, counts, finishes in results:
        assert finishes == ["length", "length"], "a stream was cut"
        assert counts == [STREAM_TOKENS, STREAM_TOKENS]
        assert {v for c in records[completion_id].choices for v, _, _ in spans(c)} <= {1, 2}
    assert_answers_of(split, await asyncio.to_thread(greedy, split), 2)


@pytest.mark.parametrize("worker", [0, 1])
def test_a_worker_that_fails_in_a_swap_leaves_the_old_version(split: Plaudit, worker: int) -> None:
    version = max(split.registry.versions()) + 1
    (split.home / "failpoints").write_text(f"worker{worker}.reload=raise\n")
    split.publish(version, 2, version)
    failed = wait_for_swap_failure(split, version)
    assert failed.serving == split.version() == 2
    assert f"worker {worker}: FailpointError" in failed.reason
    assert_answers_of(split, greedy(split), 2)


def test_an_adapter_is_served_by_both_workers_and_rolled_back(split: Plaudit) -> None:
    version = max(split.registry.versions()) + 1
    before = greedy(split).choices[0]
    split.add_adapter(version, 2, 2)
    split.announce(version, 2)
    split.wait_version(version)
    assert_answers_of(split, greedy(split), version, base=2)
    operations(split.home).activate(2, "test")
    split.wait_version(2)
    assert list(greedy(split).choices[0].token_ids) == list(before.token_ids)
