"""Users' models: what is refused before any training, and which tokens are chosen."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, T5Config

from deploy.errors import DeployError
from deploy.sizing import model_checks, models
from deploy.sizing.model_checks import chat_end_token, check_served, choose_end, choose_pad
from deploy.sizing.models import import_model
from learner.data.tokenizer import end_token_ids
from tests.support.architectures import save_tiny, tiny_model, tiny_tokenizer


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return save_tiny("gpt2", tmp_path / "own")


@pytest.fixture(autouse=True)
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the import of vLLM; one test checks its registry."""
    monkeypatch.setattr(model_checks, "check_served", lambda *_: None)


def change(file: Path, **values: Any) -> None:
    merged = json.loads(file.read_text()) | values
    file.write_text(json.dumps({k: v for k, v in merged.items() if v is not None}))


def refused(own: Path, out: Path) -> str:
    with pytest.raises(DeployError) as caught:
        import_model(str(own), out)
    assert not out.exists()
    return str(caught.value)


def test_a_model_that_needs_no_change_is_imported_unchanged(own: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    import_model(str(own), tmp_path / "out", lines.append)
    assert lines == []
    before, after = (AutoModelForCausalLM.from_pretrained(f) for f in (own, tmp_path / "out"))
    assert all(
        torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)
    )


def test_answers_of_smollm2_have_at_most_256_tokens(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(own), AutoTokenizer.from_pretrained(own)
    monkeypatch.setattr(models, "_smollm2_file", lambda: tmp_path)
    monkeypatch.setattr(models, "_from_gguf", lambda _: loaded)
    import_model("smollm2", tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (saved["max_new_tokens"], saved["temperature"]) == (256, 0.6)


def test_without_a_chat_template_it_is_refused(own: Path, tmp_path: Path) -> None:
    (own / "chat_template.jinja").unlink()
    assert "add chat_template.jinja" in refused(own, tmp_path / "out")


def test_a_chat_template_that_fails_is_refused(own: Path, tmp_path: Path) -> None:
    (own / "chat_template.jinja").write_text("{{ raise_exception('no such role') }}")
    assert "no such role" in refused(own, tmp_path / "out")


def test_without_an_end_token_it_is_refused(own: Path, tmp_path: Path) -> None:
    (own / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    change(own / "tokenizer_config.json", eos_token=None)
    assert "set eos_token" in refused(own, tmp_path / "out")


def test_an_encoder_decoder_is_refused(own: Path, tmp_path: Path) -> None:
    T5Config(vocab_size=320, d_model=8, num_layers=1).save_pretrained(own)
    assert "is an encoder-decoder (t5)" in refused(own, tmp_path / "out")


def test_a_quantised_model_is_refused(own: Path, tmp_path: Path) -> None:
    change(own / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    assert "use the original model" in refused(own, tmp_path / "out")


def test_a_folder_without_a_model_or_weights_is_refused(own: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in refused(tmp_path / "empty", tmp_path / "out")
    (own / "model.safetensors").unlink()
    assert "config.json, tokenizer and safetensors" in refused(own, tmp_path / "out")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "has no usable config.json" in refused(tmp_path / "absent", tmp_path / "out")


def test_a_tokenizer_larger_than_the_embedding_is_refused(own: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(own)
    size = len(tokenizer)
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(own)
    message = refused(own, tmp_path / "out")
    assert f"ids up to {size}, but the model embeds only {size}" in message


def test_pad_equal_to_the_end_becomes_a_free_special_token(own: Path, tmp_path: Path) -> None:
    change(own / "tokenizer_config.json", pad_token="<|end|>")
    lines: list[str] = []
    import_model(str(own), tmp_path / "out", lines.append)
    assert lines == [
        "The pad token is <|pad|> instead of <|end|>, because it must not end an answer."
    ]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.pad_token == "<|pad|>"
    assert tokenizer.pad_token_id not in end_token_ids(tokenizer)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pad_token_id"] == 0


def bare_tokenizer() -> Any:
    """Return a tokenizer whose special tokens all have a meaning in a chat."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "<|pad|><|user|><|assistant|><|system|>" + tokenizer.chat_template
    tokenizer.pad_token = "<|end|>"
    return tokenizer


def test_without_a_free_token_a_spare_row_of_the_embedding_is_used() -> None:
    tokenizer = bare_tokenizer()
    model = tiny_model("gpt2", tokenizer)
    model.resize_token_embeddings(len(tokenizer) + 8)
    size = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<used>"]})
    tokenizer.chat_template = "<used>" + tokenizer.chat_template
    choose_pad("own", tokenizer, model)
    assert tokenizer.pad_token_id not in end_token_ids(tokenizer)
    assert model.config.pad_token_id == tokenizer.pad_token_id <= size + 1


def test_without_a_spare_row_the_error_says_how_to_add_one() -> None:
    tokenizer = bare_tokenizer()
    with pytest.raises(DeployError, match=r"pads with <\|end\|>.*resize_token_embeddings"):
        choose_pad("own", tokenizer, tiny_model("gpt2", tokenizer))


def test_answers_end_as_the_chat_template_closes_them() -> None:
    """Like Gemma: <eos> in the tokenizer, <end_of_turn> after each answer."""
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    assert chat_end_token(tokenizer) == "<|end|>"
    assert choose_end(tokenizer) is not None
    end, text_end = (tokenizer.convert_tokens_to_ids(t) for t in ("<|end|>", "<|endoftext|>"))
    assert end_token_ids(tokenizer) == (end, text_end)
    assert choose_end(tokenizer) is None


def test_an_architecture_that_takes_no_positions_is_refused(tmp_path: Path) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    tokenizer = tiny_tokenizer()
    config = BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=2)
    torch.manual_seed(0)
    BloomForCausalLM(config).save_pretrained(tmp_path / "own")
    tokenizer.save_pretrained(tmp_path / "own")
    assert "cannot be trained" in refused(tmp_path / "own", tmp_path / "out")


def test_an_architecture_that_vllm_lacks_is_refused() -> None:
    class XGLMForCausalLM:
        pass

    with pytest.raises(
        DeployError, match="cannot serve 'own': it does not support XGLMForCausalLM"
    ):
        check_served("own", XGLMForCausalLM())
    check_served("own", tiny_model("gpt2", tiny_tokenizer()))
