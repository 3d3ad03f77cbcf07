"""Prompts of people: one that cannot be used stops no other."""

from typing import Any

import pytest

from feedback.ledger.rows import RecordedLengths, RecordedPrompt
from learner.cycle.inputs import _count_left_out, _split_prompts, _text_prefixes
from learner.settings import LearnerSettings, PPOSettings, RewardSettings

SETTINGS = LearnerSettings(
    reward=RewardSettings(held_out_share=1e-9), ppo=PPOSettings(max_prompt_tokens=3)
)


def asked(content: str, *token_ids: int) -> RecordedPrompt:
    return RecordedPrompt([{"role": "user", "content": content}], list(token_ids))


def test_prompts_are_taken_as_they_were_recorded_once_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a chat template would make of the messages now plays no part."""
    prompts = [
        asked("Hi", 5, 6, 7),
        asked("Hi there", 5, 6, 7),
        asked("never recorded"),
        asked("of another model", 5, 9),
        asked("too long", 1, 2, 3, 4),
        RecordedPrompt([{"role": "tool", "content": "{}"}], [8]),
    ]
    assert _split_prompts(prompts, SETTINGS, b"", 9) == ([[5, 6, 7], [8]], [])
    assert "2 prompts of users are left out" in caplog.text


def test_prompts_that_are_too_long_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Those that were not even read, because they have too many characters, count too."""
    read = [asked("Hi", 5, 6, 7), asked("longer", 1, 2, 3, 4), asked("never recorded")]
    lengths = RecordedLengths(prompts=(3, 4, 900))
    assert _count_left_out(lengths, read, SETTINGS) == 2
    assert "2 of 3 recorded prompts are left out, because they are longer than 3" in caplog.text
    assert _count_left_out(RecordedLengths(prompts=(3,)), read[::2], SETTINGS) == 0


def test_a_text_that_cannot_be_tokenised_is_left_out() -> None:
    read: list[str] = []

    def tokenizer(text: str, *, split_special_tokens: bool) -> dict[str, list[int]]:
        assert split_special_tokens, "what people write has no control tokens"
        read.append(text)
        if "poison" in text:
            raise RuntimeError("the tokenizer panicked")
        return {"input_ids": [ord(c) for c in text]}

    fake: Any = tokenizer
    conversations = [asked("ab"), asked("poison"), RecordedPrompt([], []), asked("x" * 1_000_000)]
    assert _text_prefixes(conversations, fake, 3) == [[97, 98], [120, 120, 120]]
    assert len(read[-1]) == 3 * 64, "a long text is cut before it is tokenised"
