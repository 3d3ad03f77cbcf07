"""What a model costs on a machine, and which one is suggested for GPUs."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from deploy.sizing.costs import INSTRUCT_MODELS, SMOLLM2_SHAPE, costs, suggest_model
from deploy.sizing.plan import GIB, Machine, Plan, plan
from learner.settings import LearnerSettings
from learner.sizing import ModelShape

SETTINGS = LearnerSettings()


def cpu() -> Machine:
    return Machine(cores=2, memory=16 * GIB, gpus=())


def gpus(*sizes: int) -> Machine:
    return Machine(cores=16, memory=128 * GIB, gpus=tuple(s * GIB for s in sizes))


def smollm2(machine: Machine) -> Plan:
    return plan(
        SMOLLM2_SHAPE,
        machine,
        tune="lora",
        dtype="float32",
        settings=SETTINGS.for_model(SMOLLM2_SHAPE.parameters, 1.0),
        cache=GIB // 2,
    )


def qwen(hidden: int, layers: int, feed_forward: int, heads: int, kv: int, **more: Any) -> Any:
    return Qwen2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=feed_forward,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        **more,
    )


def smollm2_config() -> Any:
    return LlamaConfig(
        hidden_size=576,
        num_hidden_layers=30,
        intermediate_size=1536,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49_152,
        tie_word_embeddings=True,
    )


@pytest.mark.parametrize(
    ("shape", "config"),
    [
        (SMOLLM2_SHAPE, smollm2_config()),
        *zip(
            INSTRUCT_MODELS.values(),
            [
                qwen(896, 24, 4864, 14, 2, vocab_size=151_936, tie_word_embeddings=True),
                qwen(1536, 28, 8960, 12, 2, vocab_size=151_936, tie_word_embeddings=True),
                qwen(3584, 28, 18_944, 28, 4, vocab_size=152_064, tie_word_embeddings=False),
            ],
            strict=True,
        ),
    ],
)
def test_the_shapes_are_those_of_the_models(shape: ModelShape, config: Any) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    linear = [m for n, m in model.named_modules() if "_proj" in n]
    assert type(model).__name__ == shape.architecture
    assert model.num_parameters() == shape.parameters
    assert sum(m.in_features + m.out_features for m in linear) == shape.linear_dimensions
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (
        shape.layers,
        shape.hidden,
        shape.vocabulary,
    )


def test_the_costs_name_download_disk_memory_and_minutes() -> None:
    planned = smollm2(cpu())
    # 134.5 million parameters in float32; programs, weights twice, cache, and the learner.
    assert planned.memory == 3 * GIB + 8 * 134_515_008 + GIB // 2 + planned.learner
    assert planned.seconds is not None
    text = costs("smollm2", planned)
    assert "its 93 MB came with the package" in text
    assert "0.5 GiB on disk" in text
    assert f"about {planned.memory / GIB:.1f} GiB of memory" in text
    assert f"about {planned.seconds / 60:.0f} min of these cores for a learning cycle" in text


def test_on_a_gpu_the_costs_are_of_its_memory_and_no_time_is_guessed() -> None:
    text = costs("some/model", smollm2(gpus(24)))
    assert "GiB of GPU memory" in text
    assert "the download of its files" in text
    assert "cycle" not in text


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (gpus(16), "Qwen/Qwen2.5-0.5B-Instruct"),
        (gpus(32), "Qwen/Qwen2.5-1.5B-Instruct"),
        (gpus(16, 24), "Qwen/Qwen2.5-1.5B-Instruct"),
        (gpus(141), "Qwen/Qwen2.5-7B-Instruct"),
    ],
)
def test_the_largest_instruct_model_that_fits_the_gpus_is_suggested(
    machine: Machine, name: str
) -> None:
    text = suggest_model(machine, "bfloat16", SETTINGS)
    assert text is not None
    assert f"serve and train {name}, which knows far more" in text
    assert f"plaudit up --home my-home --model {name}" in text
    assert f"{machine.gpus[0] // GIB} GiB" in text


@pytest.mark.parametrize("machine", [cpu(), gpus(4)])
def test_without_room_on_a_gpu_nothing_is_suggested(machine: Machine) -> None:
    assert suggest_model(machine, "bfloat16", SETTINGS) is None
