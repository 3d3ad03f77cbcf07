"""What the learner does to a model, on every architecture that people bring."""

import pytest
import torch
from transformers import PreTrainedModel

from learner.data.answers import build_answer_batch, can_share, split_prompt
from learner.data.packing import IGNORED, Rows, encode_conversation, pack_conversations
from learner.data.tokenizer import end_token_ids
from learner.models.forward import ScalarModel, answer_logits
from learner.ppo.losses import token_log_probs
from learner.pretraining.next_token import next_token_loss
from learner.sampling.sampler import TransformersSampler
from tests.support.architectures import ARCHITECTURES, WINDOW, tiny_model, tiny_tokenizer
from tests.support.learning import answer_log_probs

CHATS = [
    [{"role": "user", "content": "tea?"}, {"role": "assistant", "content": "Boil water. " * n}]
    for n in (1, 3, 2)
]
TOKENIZER = tiny_tokenizer()


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return tiny_model(request.param, TOKENIZER)


def loss_of(model: PreTrainedModel, rows: Rows) -> torch.Tensor:
    """Compute as a training step does."""
    logits = model(
        input_ids=rows.input_ids_NT, position_ids=rows.positions_NT, use_cache=False
    ).logits
    return next_token_loss(logits, rows.labels_NT)


def test_packed_conversations_cost_what_each_costs_alone(model: PreTrainedModel) -> None:
    lengths = [len(encode_conversation(chat, TOKENIZER)[0]) for chat in CHATS]
    assert max(lengths) > WINDOW, "sliding attention must have something to leave out"
    packed = pack_conversations(CHATS, TOKENIZER, row=sum(lengths) + 5, tokens=1)
    assert len(packed) == 1
    total, count = 0.0, 0
    for chat, length in zip(CHATS, lengths, strict=True):
        alone = pack_conversations([chat], TOKENIZER, row=length, tokens=1)
        kept = int((alone.labels_NT[:, 1:] != IGNORED).sum())
        total += loss_of(model, alone).item() * kept
        count += kept
    assert loss_of(model, packed).item() == pytest.approx(total / count, abs=1e-5)
    positions_NT = torch.arange(packed.input_ids_NT.shape[1]).expand_as(packed.positions_NT)
    as_one = Rows(packed.input_ids_NT, packed.labels_NT, positions_NT)
    assert loss_of(model, as_one).item() != pytest.approx(total / count, abs=1e-3)


def test_gradients_of_packed_rows_are_those_of_each_alone(model: PreTrainedModel) -> None:
    lengths = [len(encode_conversation(chat, TOKENIZER)[0]) for chat in CHATS]
    packed = pack_conversations(CHATS, TOKENIZER, row=sum(lengths), tokens=1)
    parts = [
        pack_conversations([chat], TOKENIZER, row=n, tokens=1)
        for chat, n in zip(CHATS, lengths, strict=True)
    ]
    kept = [int((p.labels_NT[:, 1:] != IGNORED).sum()) for p in parts]
    model.zero_grad()
    loss_of(model, packed).backward()
    together = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for part, count in zip(parts, kept, strict=True):
        (loss_of(model, part) * count / sum(kept)).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, together[name], atol=1e-5, rtol=1e-3)


def test_samples_past_the_window_carry_the_log_probabilities_of_the_model(
    model: PreTrainedModel,
) -> None:
    """Prompts of different lengths are padded on the left, and ended answers leave the batch."""
    prompts = [[2, 50, 3], [2, *range(50, 50 + 2 * WINDOW), 3], [2, 60, 61, 3]]
    sampler = TransformersSampler(model, [*end_token_ids(TOKENIZER), *range(200, 215)], pad=0)
    samples = sampler.sample(prompts, 4, 2 * WINDOW, 1.0, seed=2)
    assert len({len(s.token_ids) for s in samples}) > 1
    for sample in samples:
        expected = answer_log_probs(model, sample.prompt, sample.token_ids).tolist()
        assert list(sample.log_probs) == pytest.approx(expected, abs=1e-4)


def test_a_value_does_not_depend_on_padding_or_on_other_answers(model: PreTrainedModel) -> None:
    scalar = ScalarModel(model, seed=0)
    long, short = (tuple(range(50, 50 + 2 * WINDOW)), tuple(range(50, 55)))
    rows = split_prompt([long, (*short, 60)], shared=can_share(model.config))
    cpu = torch.device("cpu")
    with torch.no_grad():
        batch = build_answer_batch(rows, pad=0, device=cpu)
        together = scalar(batch)[batch.last_index_A]
        for value, sequence in zip(together, (long, (*short, 60)), strict=True):
            alone = build_answer_batch(split_prompt([sequence]), pad=0, device=cpu)
            torch.testing.assert_close(
                scalar(alone)[alone.last_index_A][0], value, atol=1e-5, rtol=1e-4
            )


def test_log_probs_past_the_window_are_those_of_each_answer_alone(model: PreTrainedModel) -> None:
    generator = torch.Generator().manual_seed(0)
    long = tuple(torch.randint(50, 250, (2 * WINDOW,), generator=generator).tolist())
    sequences = [(*long[:5], *tail) for tail in (long, (51, 52), (53,))]
    rows = split_prompt(sequences, shared=can_share(model.config))
    batch = build_answer_batch(rows, pad=0, device=torch.device("cpu"))
    with torch.no_grad():
        logits, _ = answer_logits(model, batch, "float32")
    alone = [answer_log_probs(model, r.prompt, a) for r in rows for a in r.answers]
    found = token_log_probs(logits, batch.tokens_N, 1.0)
    torch.testing.assert_close(found, torch.cat(alone), atol=1e-4, rtol=1e-4)
