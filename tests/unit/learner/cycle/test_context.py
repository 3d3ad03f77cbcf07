"""The training examples of a cycle: a vote that cannot be used is set aside."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from feedback.ledger.store import Ledger
from feedback.log.sqlite_log import SqliteLog
from learner.cycle import context
from learner.cycle.context import CycleData
from learner.cycle.state import CycleState
from learner.data.owner_bound import MAX_OWNER_VOTES, effective_votes
from learner.settings import LearnerSettings, RewardSettings
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from tests.support.feedback_samples import completion, put, ranking, rating

SETTINGS = LearnerSettings(reward=RewardSettings(micro_tokens=100))


def answered(completion_id: str, lengths: list[int], token: int = 7) -> CompletionRecord:
    record = completion(completion_id, choices=range(len(lengths)), question=completion_id)
    record.prompt_token_ids.extend([1, 2])
    for choice, length in zip(record.choices, lengths, strict=True):
        choice.token_ids.extend([token + choice.index, *[token] * (length - 2), 3])
    return record


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db")


def data_of(
    ledger: Ledger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trusted: frozenset[str] = frozenset(),
) -> CycleData:
    """Return the data of a cycle with a model of 50 token ids and a context of 1,000 tokens."""
    embeddings = torch.nn.Embedding(50, 1)
    reference = SimpleNamespace(
        config=LlamaConfig(max_position_embeddings=1000), get_input_embeddings=lambda: embeddings
    )
    inputs: Any = SimpleNamespace(
        settings=SETTINGS, tokenizer=None, split_secret=b"", reference=reference
    )
    monkeypatch.setattr(context, "load_inputs", lambda *_: inputs)
    upto = ledger.counts().max_seq
    state = CycleState(
        number=1, parent=1, after_seq=0, upto_seq=upto, events=upto, trusted_owners=trusted
    )
    return CycleData(tmp_path, SETTINGS, ledger, state, lambda: None)


def test_no_example_is_larger_than_a_batch_and_a_foreign_vote_is_set_aside(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SqliteLog(tmp_path / "log.db")
    put(log, answered("large", [30] * 20), answered("foreign", [3], token=50))
    put(log, answered("long", [400]))
    put(log, ranking("e1", [[i] for i in range(20)], completion_id="large"))
    put(log, rating("e2", completion_id="foreign"), rating("e3", completion_id="long"))
    ledger.follow(log)
    parts = data_of(ledger, tmp_path, monkeypatch).examples.values()
    examples = {example.seq: example for part in parts for example in part}
    assert examples.keys() == {1, 3}
    assert 2 <= len(examples[1].sequences) <= 3
    assert len(examples[3].sequences[0]) == 50, "two of them fit into a batch"
    [letter] = ledger.dead_letters()
    assert letter.key == "e2"
    assert "token id 50 is not among the 50 of the model" in letter.reason
    assert [j.event.event_id for j in ledger.effective_events()] == ["e1", "e3"]
    log.close()


@pytest.mark.parametrize("trusted", [True, False])
def test_the_votes_of_one_key_count_as_one_set(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, trusted: bool
) -> None:
    log = SqliteLog(tmp_path / "log.db")
    for number in range(60):
        record = answered(f"c{number}", [3])
        vote = rating(f"e{number}", completion_id=f"c{number}")
        record.owner = vote.owner = "app"
        put(log, record, vote)
    ledger.follow(log)
    data = data_of(ledger, tmp_path, monkeypatch, frozenset({"app"} if trusted else ()))
    examples = data.all_examples
    assert len(examples) == len(data.examples["reward"]) + len(data.examples["held_out"]) > 8
    assert effective_votes(examples) == (len(examples) if trusted else MAX_OWNER_VOTES)
    log.close()
