"""Answers in shared rows give what each gives alone, and nothing that does not count has a say."""

from collections.abc import Sequence

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
)

from learner.data.answers import PromptAnswers, build_answer_batch, can_share, split_prompt
from learner.models.forward import answer_logits
from learner.ppo.losses import token_log_probs

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.4,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "gemma": GemmaConfig(**SIZES, head_dim=8),
    "gpt2": GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, initializer_range=0.4),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
}
CPU = torch.device("cpu")
ROWS = [
    PromptAnswers((1, 2, 3), ((10, 11, 12), (13,), (14, 15))),
    PromptAnswers((4, 5), ((16, 17),)),
    PromptAnswers((6,), ((18,), (19, 20, 21, 22, 23))),
]


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[request.param]).eval()


def log_probs(model: PreTrainedModel, rows: Sequence[PromptAnswers]) -> torch.Tensor:
    batch = build_answer_batch(rows, pad=0, device=CPU)
    return token_log_probs(answer_logits(model, batch, "float32")[0], batch.tokens_N, 1.0)


@torch.no_grad()
def test_sharing_a_prompt_changes_nothing(model: PreTrainedModel) -> None:
    alone = []
    for row in ROWS:
        for answer in row.answers:
            ids = torch.tensor([[*row.prompt, *answer]])
            whole = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            found = whole.gather(-1, ids[0, 1:, None])[:, 0]
            alone.append(found[len(row.prompt) - 1 :])
    torch.testing.assert_close(log_probs(model, ROWS), torch.cat(alone), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_and_neighbours_change_nothing(model: PreTrainedModel) -> None:
    together = log_probs(model, ROWS)
    alone = torch.cat([log_probs(model, [row]) for row in ROWS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_padding_and_other_answers_have_exactly_no_gradient(model: PreTrainedModel) -> None:
    batch = build_answer_batch(ROWS, pad=39, device=CPU)
    logits, _ = answer_logits(model, batch, "float32")
    embedded: list[torch.Tensor] = []
    model.get_input_embeddings().register_forward_hook(
        lambda *args: (args[2].retain_grad(), embedded.append(args[2]))[0]
    )
    try:
        logits, _ = answer_logits(model, batch, "float32")
    finally:
        model.get_input_embeddings()._forward_hooks.clear()
    # The loss of the first row's second answer: one token, chosen behind the prompt.
    token_log_probs(logits, batch.tokens_N, 1.0)[3].backward()
    gradient = embedded[0].grad
    assert gradient is not None
    touched = gradient.abs().sum(-1) > 0
    assert touched[0].tolist() == [True] * 3 + [False] * 6
    assert not touched[1:].any()


def test_layout_by_hand() -> None:
    batch = build_answer_batch(ROWS[:2], pad=0, device=CPU)
    assert batch.ids_RT.tolist() == [[1, 2, 3, 10, 11, 12, 13, 14, 15], [4, 5, 16, 17, *[0] * 5]]
    assert batch.positions_RT[0].tolist() == [0, 1, 2, 3, 4, 5, 3, 3, 4]
    assert batch.state_index_N.tolist() == [2, 3, 4, 2, 2, 7, 10, 11]
    assert batch.last_index_A.tolist() == [5, 6, 8, 12]
    assert batch.answer_mask_AL.tolist() == [
        [True, True, True],
        [True, False, False],
        [True, True, False],
        [True, True, False],
    ]
    assert batch.padded(torch.arange(8.0))[3].tolist() == [6, 7, 0]
    assert batch.per_token(torch.arange(4)).tolist() == [0, 0, 0, 1, 2, 2, 3, 3]
    assert batch.attention_mask_R1TT is not None
    assert batch.attention_mask_R1TT[0, 0, 8].int().tolist() == [1, 1, 1, 0, 0, 0, 0, 1, 1]
    assert build_answer_batch(ROWS[1:2], pad=0, device=CPU).attention_mask_R1TT is None


def test_prompt_is_what_all_begin_with() -> None:
    assert split_prompt([(1, 2, 3, 4), (1, 2, 5)]) == [PromptAnswers((1, 2), ((3, 4), (5,)))]
    assert split_prompt([(1, 2, 3)]) == [PromptAnswers((1, 2), ((3,),))]
    assert split_prompt([(1, 2, 3), (1, 2)]) == [PromptAnswers((1,), ((2, 3), (2,)))]
    assert split_prompt([(1, 2), (3, 4)]) == [PromptAnswers((), ((1, 2), (3, 4)))]
    assert len(split_prompt([(1, 2, 3), (1, 2, 4)], shared=False)) == 2


def test_windows_are_not_shared() -> None:
    assert can_share(CONFIGS["llama"])
    assert not can_share(MistralConfig(**SIZES, sliding_window=4))
    assert can_share(CONFIGS["mistral"])
