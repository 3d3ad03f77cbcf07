"""Prompts of people: one that cannot be used stops no other."""

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from learner.cycle.inputs import _load_prompts, _text_prefixes
from learner.data.tokenizer import encode_chat, train_tokenizer
from learner.errors import ModelUnusable
from learner.settings import LearnerSettings, RewardSettings

SETTINGS = LearnerSettings(reward=RewardSettings(held_out_share=1e-9))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["Hello there, how are you?"], vocabulary=300, context=64)


def asked(content: str, role: str = "user") -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def test_a_prompt_that_the_chat_template_refuses_is_left_out(
    tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    user_prompts = [asked("Hi"), asked("{}", role="tool"), asked("Hello"), []]
    prompts, held_out = _load_prompts(user_prompts, tokenizer, SETTINGS, b"", generated=False)
    expected = [encode_chat(tokenizer, asked(text), answer=True) for text in ("Hi", "Hello")]
    assert (prompts, held_out) == (expected, [])
    assert "1 prompts of users are left out" in caplog.text
    assert "This model knows the roles" in caplog.text


def test_a_model_without_a_chat_template_is_still_an_error(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(ModelUnusable, match="no chat template"):
        _load_prompts([asked("Hi")], tokenizer, SETTINGS, b"", generated=False)


def test_a_text_that_cannot_be_tokenised_is_left_out() -> None:
    read: list[str] = []

    def tokenizer(text: str, *, split_special_tokens: bool) -> dict[str, list[int]]:
        assert split_special_tokens, "what people write has no control tokens"
        read.append(text)
        if "poison" in text:
            raise RuntimeError("the tokenizer panicked")
        return {"input_ids": [ord(c) for c in text]}

    fake: Any = tokenizer
    conversations = [asked("ab"), asked("poison"), [], asked("x" * 1_000_000)]
    assert _text_prefixes(conversations, fake, 3) == [[97, 98], [120, 120, 120]]
    assert len(read[-1]) == 3 * 64, "a long text is cut before it is tokenised"
