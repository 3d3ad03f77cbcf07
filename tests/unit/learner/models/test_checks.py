"""Model folders with a fault: each is refused in one line that names the file and what to do."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deploy.errors import DeployError
from deploy.inspection.doctor import check_model
from deploy.sizing import model_checks
from deploy.sizing.models import import_model
from learner.data.tokenizer import check_template
from learner.errors import ModelUnusable
from learner.models.checks import check_folder
from learner.models.loading import load_model, load_tokenizer
from learner.pretraining.sft import sft
from tests.support.architectures import ARCHITECTURES, save_tiny

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 269060552\n"
WEIGHTS = "model.safetensors"
NORM = "model.layers.0.input_layernorm.weight"


def pointer(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(POINTER)


def cut(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-100])


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights[NORM]
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def with_weight(value: float, dtype: torch.dtype = torch.float32) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        weights = {k: v.to(dtype) for k, v in load_file(folder / WEIGHTS).items()}
        weights[NORM][3] = value
        save_file(weights, folder / WEIGHTS, {"format": "pt"})

    return change


def another_shape(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights[NORM] = weights[NORM][:4].clone()
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def without_a_shard(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {NORM: "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def generation_config(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "generation_config.json").write_text(text)


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def template(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


GREEDY_WITH_TEMPERATURE = '{"do_sample": false, "temperature": 0.5}'
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights as a pointer": (pointer(WEIGHTS), "model.safetensors is a placeholder of Git LFS"),
    "tokenizer as a pointer": (pointer("tokenizer.json"), "run 'git lfs pull'"),
    "config as a pointer": (pointer("config.json"), "config.json is a placeholder of Git LFS"),
    "template as a pointer": (pointer("chat_template.jinja"), "jinja is a placeholder of Git LFS"),
    "cut weights": (cut, "model.safetensors is damaged"),
    "empty weights": (lambda f: (f / WEIGHTS).write_bytes(b""), "model.safetensors is damaged"),
    "cut config": (lambda f: (f / "config.json").write_text('{"a": '), "config.json is damaged"),
    "a missing weight": (without_a_weight, f"lacks the weights {NORM}, which would be random"),
    "a missing shard": (without_a_shard, "lacks model-00002-of-00002.safetensors"),
    "a weight of another shape": (another_shape, "could not be loaded as a causal language model"),
    "NaN": (with_weight(float("nan")), f"'{NORM}' in .* are not all finite numbers"),
    "infinity in bfloat16": (with_weight(float("inf"), torch.bfloat16), "not all finite numbers"),
    "generation config": (generation_config(GREEDY_WITH_TEMPERATURE), "cannot be saved again"),
    "generation list": (generation_config("[]"), "must hold a JSON object"),
    "no tokenizer": (without_tokenizer, "holds no tokenizer that can be read"),
    "template divides by 0": (template("{{ 1 // 0 }}"), "fix chat_template.jinja"),
    "template adds a text": (template("{{ messages | length + 'a' }}"), "fix chat_template.jinja"),
    "template is cut": (template("{% for"), "fix chat_template.jinja"),
    "template takes no answer": (
        template("{% if messages | length > 1 %}{{ raise_exception('no') }}{% endif %}"),
        "fix chat_template.jinja",
    ),
}


@pytest.fixture(autouse=True)
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_checks, "check_served", lambda *_: None)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return save_tiny("llama", tmp_path / "own")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_whole_model_of_each_architecture_passes(architecture: str, tmp_path: Path) -> None:
    check_folder(save_tiny(architecture, tmp_path / "own"))


@pytest.mark.parametrize("fault", FAULTS)
def test_each_command_refuses_a_faulty_folder_before_training(
    fault: str, own: Path, tmp_path: Path
) -> None:
    spoil, expected = FAULTS[fault]
    spoil(own)
    with pytest.raises(ModelUnusable, match=expected) as tuning:
        sft(own, tmp_path / "out")
    with pytest.raises(DeployError, match=expected) as importing:
        import_model(str(own), tmp_path / "out")
    finding = check_model(str(own), None)
    assert finding.level == "problem"
    assert [str(tuning.value), str(importing.value)] == [finding.text] * 2
    assert "\n" not in finding.text
    assert [file.name for file in tmp_path.iterdir()] == ["own"]  # nothing was begun


def test_weights_that_would_be_random_are_refused_wherever_a_model_is_loaded(own: Path) -> None:
    without_a_weight(own)
    with pytest.raises(ModelUnusable, match="would be random"):
        load_model(own)


def test_without_a_chat_template_a_model_cannot_be_fine_tuned(own: Path) -> None:
    tokenizer = load_tokenizer(own)
    tokenizer.chat_template = None
    with pytest.raises(ModelUnusable, match="has no chat template"):
        check_template(own, tokenizer)
