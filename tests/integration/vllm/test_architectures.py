"""Imported models: SFT, a learning cycle and a hot swap for each architecture.

The one that differs most from the default model runs by default, the others with `-m slow`.
"""

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from deploy.administration.policies import operations
from feedback.control.policies import append_policy_event
from feedback.log.sqlite_log import SqliteLog
from learner.cycle.state import latest_cycle
from learner.models.loading import load_model, load_tokenizer
from learner.pretraining.sft import sft
from learner.settings import SftSettings
from protos.checkpoints.folder_registry import FolderRegistry
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.policy_pb2 import Published
from tests.support.architectures import WINDOW, save_tiny
from tests.support.learner_cycles import SETTINGS as TINY_CYCLE
from tests.support.learning import answer_log_probs, cast_votes, cycle_ended, learn_until
from tests.support.servers import Plaudit

# A learning rate at which every tensor changes detectably.
SETTINGS = TINY_CYCLE.model_copy(
    update={"ppo": TINY_CYCLE.ppo.model_copy(update={"learning_rate": 1e-2})}
)
TOLERANCE = 1e-4  # nats per token, between vLLM and transformers in float32


def fine_tune_version_1(home: Path, architecture: str) -> None:
    """Fine-tune a model folder on a few conversations, and publish it as version 1."""
    source = save_tiny(architecture, home / "source")
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"say {n}"},
                {"role": "assistant", "content": f"I say {n}. " * (1 + n % 3)},
            ]
        }
        for n in range(20)
    ]
    data = home / "chats.jsonl"
    data.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    losses: list[float] = []
    settings = SftSettings(tokens=4096, row=128, batch_tokens=512, learning_rate=3e-3)
    first = sft(
        source,
        home / "models" / "sft",
        data=data,
        settings=settings,
        progress=lambda each: losses.append(each.loss) if each.loss is not None else None,
    )
    assert losses[-1] < losses[0]
    FolderRegistry(home / "registry").publish(first, version=1, parent=0, base=architecture)


def learn_version_2(home: Path) -> None:
    """Log votes, and run a learner until it has published version 2."""
    log = SqliteLog(home / "log.db")
    append_policy_event(log, Published(version=1))
    cast_votes(log, load_tokenizer(home / "models" / "sft"), votes=120)
    log.close()
    learn_until(home, SETTINGS, cycle_ended(home))
    state = latest_cycle(home)
    assert state is not None
    assert (state.outcome, state.version) == ("published", 2), state.reasons


def answer(plaudit: Plaudit, temperature: float) -> CompletionRecord:
    """Return the record of an answer that is longer than the sliding-attention window."""
    completion = plaudit.openai().chat.completions.create(
        model="plaudit",
        messages=[{"role": "user", "content": "say 7"}],
        temperature=temperature,
        max_tokens=4 * WINDOW,
        extra_body={"ignore_eos": True},
    )
    return plaudit.records()[completion.id]


def activate_under_stream(plaudit: Plaudit) -> None:
    """Activate version 2 while version 1 answers; check that the answer has tokens of both."""
    stream = plaudit.openai().chat.completions.create(
        model="plaudit",
        messages=[{"role": "user", "content": "say 7"}],
        max_tokens=900,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    activated, completion_id, finish = False, "", None
    for chunk in stream:
        completion_id, finish = chunk.id, chunk.choices[0].finish_reason or finish
        if not activated:
            operations(plaudit.home).activate(2, "test")
            activated = True
    assert finish == "length"
    (choice,) = plaudit.records()[completion_id].choices
    assert [s.policy_version for s in choice.versions] == [1, 2]
    assert len(choice.token_ids) == 900


def log_probs(model: PreTrainedModel, record: CompletionRecord) -> torch.Tensor:
    """Compute the log-probabilities of an answer's tokens with transformers."""
    return answer_log_probs(model, record.prompt_token_ids, record.choices[0].token_ids)


def undetected_tensors(
    new: PreTrainedModel, old: PreTrainedModel, record: CompletionRecord
) -> list[str]:
    """Return the tensors whose old values would give the same log-probabilities."""
    expected, old_parameters, undetected = log_probs(new, record), dict(old.named_parameters()), []
    for name, parameter in new.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.copy_(old_parameters[name])
            if (log_probs(new, record) - expected).abs().max() < 2 * TOLERANCE:
                undetected.append(name)
            parameter.copy_(kept)
    return undetected


@pytest.mark.parametrize(
    "architecture",
    [
        "gpt2",
        *(pytest.param(a, marks=pytest.mark.slow) for a in ("llama", "qwen", "gemma", "mistral")),
    ],
)
def test_from_a_model_folder_to_a_hot_swap(architecture: str, tmp_path: Path) -> None:
    fine_tune_version_1(tmp_path, architecture)
    learn_version_2(tmp_path)
    operations(tmp_path).rollback("test")
    plaudit = Plaudit(
        tmp_path,
        environment={"PLAUDIT_SERVING_POLL_SECONDS": ".1", "PLAUDIT_SERVING_ENFORCE_EAGER": "1"},
    )
    plaudit.serve()
    try:
        assert plaudit.version() == 1
        old, new = (load_model(plaudit.registry.path(v)) for v in (1, 2))
        before = answer(plaudit, 1.0)
        activate_under_stream(plaudit)
        after, greedy = answer(plaudit, 1.0), answer(plaudit, 0.0)
    finally:
        plaudit.stop()
    for model, record in ((old, before), (new, after)):
        served = torch.tensor(record.choices[0].log_probs)
        torch.testing.assert_close(served, log_probs(model, record), atol=TOLERANCE, rtol=0)
    # Each token of the greedy answer is the most likely one, up to near ties.
    ids = torch.tensor([[*greedy.prompt_token_ids, *greedy.choices[0].token_ids]])
    with torch.no_grad():
        best = new(input_ids=ids).logits.log_softmax(-1)[0, :-1].max(-1).values
    best = best[len(greedy.prompt_token_ids) - 1 :]
    torch.testing.assert_close(log_probs(new, greedy), best, atol=TOLERANCE, rtol=0)
    assert undetected_tensors(new, old, after) == []
