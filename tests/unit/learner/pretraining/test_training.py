"""Tokenizer, packing, pre-training and fine-tuning, on a model of a few thousand weights."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from learner.data.packing import IGNORED, encode_conversation, pack_conversations, pack_documents
from learner.data.tokenizer import encode_chat, end_token_ids, train_tokenizer
from learner.errors import DataUnusable
from learner.models.loading import load_model, load_tokenizer
from learner.pretraining.next_token import learning_rate, next_token_loss
from learner.pretraining.pretrain import pretrain
from learner.pretraining.progress import Advance
from learner.pretraining.sft import sft
from learner.settings import PretrainSettings, SftSettings

TINY = PretrainSettings(
    vocabulary=300,
    hidden=32,
    layers=1,
    heads=1,
    feed_forward=32,
    context=128,
    tokens=1200,
    row=32,
    batch_tokens=64,
    checkpoint_seconds=0,
)
TINY_SFT = SftSettings(tokens=1024, row=64, batch_tokens=128, checkpoint_seconds=0)
TEXTS = ["A dog can run.", "A cat can sleep, and a dog can bark."] * 20
HELLO = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you."},
]


class Killed(Exception):
    pass


def nothing(_: Advance) -> None:
    pass


def kill_at(step: int):  # type: ignore[no-untyped-def]
    def on_advance(advance: Advance) -> None:
        if advance.stage in ("Pre-training", "Fine-tuning") and advance.step == step:
            raise Killed

    return on_advance


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_template_and_ends(tmp_path: Path) -> None:
    train_tokenizer(TEXTS, vocabulary=300, context=128).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = tokenizer.apply_chat_template(HELLO[:1], tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>Hi<|end|><|assistant|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    ends = tokenizer.convert_ids_to_tokens(list(end_token_ids(tokenizer)))
    assert ends == ["<|end|>", "<|endoftext|>"]
    assert tokenizer.decode(tokenizer.encode("Naïve 🐕!")) == "Naïve 🐕!"


def test_template_knows_developers_and_refuses_strangers() -> None:
    tokenizer = train_tokenizer(TEXTS, vocabulary=300, context=128)
    developer = [{"role": "developer", "content": "x"}]
    assert encode_chat(tokenizer, developer, answer=False)[0] == tokenizer.convert_tokens_to_ids(
        "<|system|>"
    )
    with pytest.raises(Exception, match="roles system, user and assistant"):
        encode_chat(tokenizer, [{"role": "stranger", "content": "x"}], answer=True)


def test_only_the_assistant_has_labels_and_its_end_is_one_of_them() -> None:
    tokenizer = train_tokenizer(TEXTS, vocabulary=300, context=128)
    ids, labels = encode_conversation(HELLO, tokenizer)
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(HELLO, tokenize=False)
    said = tokenizer.decode([label for label in labels if label != IGNORED])
    assert said == "Hello.<|end|>See you.<|end|>"


def test_documents_are_packed_without_gaps() -> None:
    tokenizer = train_tokenizer(TEXTS, vocabulary=300, context=128)
    rows = pack_documents(TEXTS, tokenizer, row=16, tokens=64)
    assert rows.input_ids_NT.shape == (4, 16)
    assert "run.<|endoftext|>A cat" in tokenizer.decode(rows.input_ids_NT.flatten())


def test_packed_conversations_do_not_see_each_other(tmp_path: Path) -> None:
    pretrain(tmp_path / "m", settings=TINY, progress=nothing)
    model, tokenizer = load_model(tmp_path / "m"), load_tokenizer(tmp_path / "m")
    alone = pack_conversations([HELLO[:2]], tokenizer, row=64, tokens=64)
    after = pack_conversations([HELLO[2:], HELLO[:2]], tokenizer, row=64, tokens=64)
    length = len(encode_conversation(HELLO[:2], tokenizer)[0])
    start = len(encode_conversation(HELLO[2:], tokenizer)[0])
    with torch.no_grad():
        one, two = (
            model(input_ids=r.input_ids_NT, position_ids=r.positions_NT, use_cache=False).logits
            for r in (alone, after)
        )
    torch.testing.assert_close(one[0, :length], two[0, start : start + length])


def test_loss_predicts_each_label_one_token_before_and_leaves_ignored_ones_out() -> None:
    logits = torch.zeros(1, 3, 4, requires_grad=True)
    loss = next_token_loss(logits, torch.tensor([[0, IGNORED, 2]]))
    loss.backward()
    assert loss.item() == pytest.approx(torch.log(torch.tensor(4.0)).item())
    assert logits.grad is not None
    assert logits.grad[0, 0].abs().sum() == 0
    assert logits.grad[0, 1].tolist() == pytest.approx([0.25, 0.25, -0.75, 0.25])


def test_schedule_warms_up_and_falls_to_a_tenth() -> None:
    rates = [learning_rate(s, 100, peak=1.0, warmup_ratio=0.1) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("step", [1, 7, 18])
def test_killed_and_resumed_pretraining_gives_the_same_weights(tmp_path: Path, step: int) -> None:
    whole = pretrain(tmp_path / "whole", settings=TINY, progress=nothing)
    with pytest.raises(Killed):
        pretrain(tmp_path / "resumed", settings=TINY, progress=kill_at(step))
    resumed = pretrain(tmp_path / "resumed", settings=TINY, progress=nothing)
    assert weights(resumed) == weights(whole)


def test_killed_and_resumed_fine_tuning_gives_the_same_weights(tmp_path: Path) -> None:
    base = pretrain(tmp_path / "base", settings=TINY, progress=nothing)
    whole = sft(base, tmp_path / "whole", settings=TINY_SFT, progress=nothing)
    with pytest.raises(Killed):
        sft(base, tmp_path / "resumed", settings=TINY_SFT, progress=kill_at(5))
    resumed = sft(base, tmp_path / "resumed", settings=TINY_SFT, progress=nothing)
    assert weights(resumed) == weights(whole) != weights(base)


def test_own_text_and_demonstrations(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(TEXTS))
    data = tmp_path / "chat.jsonl"
    data.write_text(json.dumps({"messages": HELLO}) + "\n")
    base = pretrain(tmp_path / "base", text=[text], settings=TINY, progress=nothing)
    tuned = sft(base, tmp_path / "tuned", data=data, settings=TINY_SFT, progress=nothing)
    assert (tuned / "config.json").exists()


@pytest.mark.parametrize(
    "line", ["no json", "{}", '{"messages": [{"role": "user", "content": "x"}]}', '{"messages": 3}']
)
def test_malformed_demonstrations_are_named(tmp_path: Path, line: str) -> None:
    base = pretrain(tmp_path / "base", settings=TINY, progress=nothing)
    data = tmp_path / "chat.jsonl"
    data.write_text(line)
    with pytest.raises(DataUnusable, match="line 1"):
        sft(base, tmp_path / "out", data=data, settings=TINY_SFT, progress=nothing)


def test_absent_or_empty_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataUnusable, match="absent"):
        pretrain(tmp_path / "o", text=[tmp_path / "absent.txt"], settings=TINY, progress=nothing)
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    with pytest.raises(DataUnusable, match="no text"):
        pretrain(tmp_path / "o", text=[empty], settings=TINY, progress=nothing)


def test_finished_stage_is_not_done_again(tmp_path: Path) -> None:
    pretrain(tmp_path / "m", settings=TINY, progress=nothing)
    assert pretrain(tmp_path / "m", settings=TINY, progress=kill_at(1)) == tmp_path / "m"
