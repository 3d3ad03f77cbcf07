"""Checks of a model folder before anything is trained, so that no fault in it is found later.

Not checked: code that comes with a model, and weights that are not in safetensors files for values
that are not finite.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from learner.errors import ModelUnusable

_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_AGAIN: Final = "download or save the model again"
_USE: Final = (
    "use a folder with config.json, tokenizer and safetensors, or the id of a Hugging Face model "
    "that this machine can download"
)


def check_folder(folder: Path) -> None:
    """Check that a folder holds a whole causal language model, without keeping it in memory.

    Raises:
        ModelUnusable: Files are missing, damaged or placeholders; weights are missing or not
            finite; or the generation config cannot be saved.

    """
    if not folder.is_dir():
        raise ModelUnusable(f"there is no folder {folder}; correct the path")
    if not (folder / "config.json").is_file():
        raise ModelUnusable(
            f"the folder {folder} has no config.json; use a folder written by save_pretrained"
        )
    for file in sorted(folder.iterdir()):
        if file.is_file():
            _check_file(file)
    for index in folder.glob("*.safetensors.index.json"):
        _check_shards(index)
    check_config(folder)
    model, missing = read_model(folder, device_map="meta")
    check_complete(folder, missing)
    _check_generation(folder, model)
    for file in sorted(folder.glob("*.safetensors")):
        _check_finite(file)


def _check_file(file: Path) -> None:
    with file.open("rb") as opened:
        if opened.read(len(_POINTER)) == _POINTER:
            raise ModelUnusable(
                f"{file} is a placeholder of Git LFS, not the file itself; run 'git lfs pull' in "
                "its folder"
            )
    if file.suffix == ".json":
        _read_object(file)
    elif file.suffix == ".safetensors":
        for _ in _tensors(file):
            break


def _read_object(file: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(file.read_bytes())
    except ValueError as error:
        raise ModelUnusable(f"{file} is damaged ({error}); {_AGAIN}") from error
    # vocab.json of some models is a list of tokens, which transformers reads
    if not isinstance(parsed, dict) and file.name.endswith("config.json"):
        raise ModelUnusable(f"{file} must hold a JSON object; {_AGAIN}")
    return parsed if isinstance(parsed, dict) else {}


def _check_shards(index: Path) -> None:
    shards = _read_object(index).get("weight_map")
    names = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise ModelUnusable(
            f"the folder {index.parent} lacks {_some(missing)}, which {index.name} lists; {_AGAIN}"
        )


def _check_finite(file: Path) -> None:
    for name, tensor in _tensors(file):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelUnusable(
                f"the weights '{name}' in {file} are not all finite numbers, so the model answers "
                "nothing; use an earlier checkpoint of it"
            )


def _tensors(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a safetensors file one by one; opening it checks its length."""
    try:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  it is no dictionary
                yield name, tensors.get_tensor(name)
    except SafetensorError as error:
        raise ModelUnusable(f"{file} is damaged ({error}); {_AGAIN}") from error


def check_config(name: Path | str) -> None:
    """Check that a model is a decoder in full precision; `name` is a folder or an id.

    Raises:
        ModelUnusable: The model is an encoder-decoder, or quantised.

    """
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, TypeError) as error:
        reason = _one_line(error)
        raise ModelUnusable(f"'{name}' has no usable config.json: {reason}; {_USE}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise ModelUnusable(
            f"'{name}' is an encoder-decoder ({config.model_type}); "
            "Plaudit needs a decoder-only model, such as Llama, Qwen, Gemma, GPT-2 or Mistral"
        )
    if getattr(config, "quantization_config", None):
        raise ModelUnusable(
            f"'{name}' is quantised, but Plaudit trains full-precision weights; "
            "use the original model that it was made from"
        )


def read_model(folder: Path | str, **options: Any) -> tuple[PreTrainedModel, list[str]]:
    """Load a causal language model; return it and the names of weights that its files lack.

    Raises:
        ModelUnusable: The folder holds no causal language model, or a damaged one.

    """
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, **options
        )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = _one_line(error)
        raise ModelUnusable(
            f"'{folder}' could not be loaded as a causal language model: {reason}; {_USE}"
        ) from error
    return model, sorted(report["missing_keys"])


def check_complete(name: Path | str, missing: list[str]) -> None:
    """Refuse a model that lacks weights, which would be drawn at random.

    Raises:
        ModelUnusable: Weights are missing.

    """
    if missing:
        raise ModelUnusable(
            f"the model in {name} lacks the weights {_some(missing)}, which would be random; "
            f"{_AGAIN}"
        )


def _check_generation(folder: Path, model: PreTrainedModel) -> None:
    try:
        if model.generation_config is not None:
            model.generation_config.validate(strict=True)
    except (ValueError, TypeError) as error:
        raise ModelUnusable(
            f"{folder / 'generation_config.json'} cannot be saved again: {_one_line(error)}; "
            "correct the file"
        ) from error


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _one_line(error: BaseException) -> str:
    """Return the first paragraph of an error's message, without line breaks."""
    text = str(error).strip().split("\n\n")[0]
    return " ".join(text.split()).rstrip(".") or type(error).__name__
