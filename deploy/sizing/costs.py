"""What a first model costs on this machine, and which one suits a machine with a GPU."""

from typing import Final

from deploy.sizing.plan import GIB, Machine, Plan, plan, size_text, time_text
from deploy.sizing.processor import Dtype
from learner.settings import LearnerSettings, tune_for
from learner.sizing import ModelShape

COSTS_VARIABLE: Final = "PLAUDIT_SERVING_COSTS"
SMOLLM2_SHAPE: Final = ModelShape(
    "LlamaForCausalLM",
    parameters=134_515_008,
    layers=30,
    hidden=576,
    vocabulary=49_152,
    linear_dimensions=305_280,
    context=8192,
)
# Instruct models under the Apache licence, smallest first.
INSTRUCT_MODELS: Final = {
    "Qwen/Qwen2.5-0.5B-Instruct": ModelShape(
        "Qwen2ForCausalLM",
        parameters=494_032_768,
        layers=24,
        hidden=896,
        vocabulary=151_936,
        linear_dimensions=549_888,
        context=32_768,
    ),
    "Qwen/Qwen2.5-1.5B-Instruct": ModelShape(
        "Qwen2ForCausalLM",
        parameters=1_543_714_304,
        layers=28,
        hidden=1536,
        vocabulary=151_936,
        linear_dimensions=1_154_048,
        context=32_768,
    ),
    "Qwen/Qwen2.5-7B-Instruct": ModelShape(
        "Qwen2ForCausalLM",
        parameters=7_615_616_512,
        layers=28,
        hidden=3584,
        vocabulary=152_064,
        linear_dimensions=2_523_136,
        context=32_768,
    ),
}
_BFLOAT16: Final = 2  # bytes of a weight in a model's files
_FLOAT32: Final = 4  # bytes of a weight in an imported model
_DOWNLOADS: Final = {
    "default": "nothing to download",
    "smollm2": "nothing to download (its 93 MB came with the package)",
}


def costs(model: str, planned: Plan) -> str:
    """Return what a model costs on this machine, as a sentence.

    Args:
        model: `default`, `smollm2`, or the folder or id of a Hugging Face model.
        planned: Plan of the model on this machine.

    """
    disk = _FLOAT32 * planned.shape.parameters
    download = _DOWNLOADS.get(model, "the download of its files, unless they are here already")
    kind = "memory" if planned.gpu_share is None else "GPU memory"
    parts = [download, f"{size_text(disk)} on disk"]
    parts.append(f"about {size_text(planned.memory)} of {kind}")
    if planned.seconds is not None:
        parts.append(f"about {time_text(planned.seconds)} of these cores for a learning cycle")
    return f"What it costs here: {'; '.join(parts)}."


def suggest_model(machine: Machine, dtype: Dtype, settings: LearnerSettings) -> str | None:
    """Suggest the largest instruct model that fits on the GPUs; None without a GPU that has room.

    Args:
        machine: Hardware of the machine.
        dtype: Number format that vLLM serves in.
        settings: Settings of the learner.

    """
    if not machine.gpus:
        return None
    fitting = [
        name
        for name, shape in INSTRUCT_MODELS.items()
        if plan(
            shape,
            machine,
            tune=tune_for(shape.parameters),
            dtype=dtype,
            settings=settings.for_model(shape.parameters, 1.0),
            cache=0,
        ).problem
        is None
    ]
    if not fitting:
        return None
    name = fitting[-1]
    download = INSTRUCT_MODELS[name].parameters * _BFLOAT16
    gpus = "GPU has" if len(machine.gpus) == 1 else "GPUs have"
    memory = " and ".join(f"{size / GIB:.0f} GiB" for size in machine.gpus)
    return (
        f"This machine's {gpus} {memory}: enough to serve and train {name}, which knows far more "
        "than the default model. Of three instruct models under the Apache licence it is the "
        f"largest that fits. 'plaudit up --home my-home --model {name}' downloads "
        f"{size_text(download)} and runs it."
    )
