"""Hot swaps on real vLLM: under load, with failures at each step, bad checkpoints, rollback."""

import asyncio
import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from deploy.administration.policies import operations
from feedback.control.policies import append_policy_event
from learner.models.loading import load_model
from protos.plaudit.v1.policy_pb2 import Published
from tests.support.learning import answer_log_probs
from tests.support.servers import Plaudit
from tests.support.streams import (
    GREETING,
    fixed_seed_answer,
    running_streams,
    spans,
    wait_for_swap_failure,
)


@pytest.fixture
def next_version(plaudit: Plaudit) -> int:
    return max(plaudit.registry.versions()) + 1


async def test_a_swap_under_16_streams_interrupts_none(plaudit: Plaudit, next_version: int) -> None:
    before, tokens = plaudit.version(), 900
    plaudit.add_checkpoint(next_version, before, next_version)
    streams = await running_streams(plaudit, 16, tokens)
    await asyncio.to_thread(plaudit.announce, next_version, before)
    results = await asyncio.gather(*streams)
    await asyncio.to_thread(plaudit.wait_version, next_version)
    records = plaudit.records()
    swapped = 0
    for completion_id, counts, finishes in results:
        assert finishes == ["length", "length"]
        assert counts == [tokens, tokens]
        for choice in records[completion_id].choices:
            choice_spans = spans(choice)
            assert choice_spans[0][1] == 0
            assert choice_spans[-1][2] == tokens
            assert all(a[2] == b[1] for a, b in itertools.pairwise(choice_spans))
            versions = [v for v, _, _ in choice_spans]
            assert versions == sorted(versions)
            assert set(versions) <= {before, next_version}
            swapped += len(versions) == 2
    assert swapped, "no stream ran during the swap, so the test shows nothing"


def test_new_weights_answer_after_a_swap_and_old_ones_after_a_rollback(
    plaudit: Plaudit, next_version: int
) -> None:
    before, old = plaudit.version(), fixed_seed_answer(plaudit)
    plaudit.publish(next_version, before, next_version)
    plaudit.wait_version(next_version)
    new = fixed_seed_answer(plaudit)
    assert new != old
    assert "Rolling back" in operations(plaudit.home).rollback("test")
    plaudit.wait_version(before)
    assert fixed_seed_answer(plaudit) == old
    plaudit.publish(next_version + 1, before, next_version + 1)
    operations(plaudit.home).activate(next_version, "test")
    plaudit.wait_version(next_version)
    assert fixed_seed_answer(plaudit) == new
    operations(plaudit.home).resume("test")
    plaudit.wait_version(next_version + 1)


def test_a_tied_output_head_is_swapped(plaudit: Plaudit, next_version: int) -> None:
    """On CPUs vLLM keeps a packed copy of the head, which a reload once left unchanged."""
    plaudit.publish(next_version, plaudit.version(), next_version)
    plaudit.wait_version(next_version)
    answer = plaudit.openai().chat.completions.create(
        model="plaudit", messages=GREETING, max_tokens=16, extra_body={"ignore_eos": True}
    )
    record = plaudit.records()[answer.id]
    (choice,) = record.choices
    model = load_model(plaudit.registry.path(next_version))
    assert model.config.tie_word_embeddings
    expected = answer_log_probs(model, record.prompt_token_ids, choice.token_ids)
    torch.testing.assert_close(torch.tensor(choice.log_probs), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("step", ["stage", "pause", "reload", "label", "read_back", "resume"])
def test_a_failure_at_any_step_leaves_the_old_policy(
    plaudit: Plaudit, next_version: int, step: str
) -> None:
    before, old = plaudit.version(), fixed_seed_answer(plaudit)
    (plaudit.home / "failpoints").write_text(f"swap.{step}=raise\n")
    plaudit.publish(next_version, before, next_version)
    failed = wait_for_swap_failure(plaudit, next_version)
    assert failed.serving == before
    assert f"swap.{step}" in failed.reason
    assert plaudit.version() == before
    assert fixed_seed_answer(plaudit) == old


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [_truncate, _flip_a_bit, Path.unlink])
def test_a_damaged_checkpoint_is_refused(plaudit: Plaudit, next_version: int, damage: Any) -> None:
    before, old = plaudit.version(), fixed_seed_answer(plaudit)
    source = plaudit.home / f"tiny-{before}"
    plaudit.registry.publish(source, version=next_version, parent=before, base="tiny")
    damage(plaudit.registry.path(next_version) / "model.safetensors")
    append_policy_event(plaudit.log, Published(version=next_version, parent=before))
    failed = wait_for_swap_failure(plaudit, next_version)
    assert "model.safetensors" in failed.reason
    assert plaudit.version() == before
    assert fixed_seed_answer(plaudit) == old


def test_another_architecture_is_refused(plaudit: Plaudit, next_version: int) -> None:
    from tests.support.models import tiny_chat_model

    before = plaudit.version()
    folder = tiny_chat_model(plaudit.home / "wide", hidden_size=96)
    plaudit.registry.publish(folder, version=next_version, parent=before, base="tiny")
    append_policy_event(plaudit.log, Published(version=next_version, parent=before))
    assert "tensors differ" in wait_for_swap_failure(plaudit, next_version).reason
    shutil.rmtree(folder)
    assert plaudit.version() == before
