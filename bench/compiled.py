"""Measure a training pass of a model with adapters in bfloat16, with and without compilation.

    uv run python -m bench.compiled [--rounds 9] [--threads 2] [--device cuda]

The model has the shape of SmolLM2-135M, random weights, and adapters of the default rank. A pass
is forward and backward over about 1024 tokens in rows of one length; both models take turns on the
same rows. The duration of the first passes, which compile, is printed separately; it is shorter if
kernels are cached from an earlier run.
"""

import argparse
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from bench.servers import machine
from learner.models.adapters import add_adapter
from learner.models.compiled import compile_layers
from learner.models.parameters import copy_shared, trainable_parameters, trunk_of
from learner.models.precision import compute_in, freeze
from learner.settings import LearnerSettings

TOKENS = 1024
LENGTHS = (64, 128, 256, 512)
SHAPE = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)


def pass_seconds(model: PreTrainedModel, ids_RT: torch.Tensor) -> float:
    """Return the duration of one pass, in seconds."""
    start = time.perf_counter()
    with compute_in("bfloat16", ids_RT):
        states_RTH = trunk_of(model)(input_ids=ids_RT, use_cache=False).last_hidden_state
    states_RTH.float().square().mean().backward()
    for parameter in trainable_parameters(model):
        parameter.grad = None
    if ids_RT.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(machine())
    plain = freeze(LlamaForCausalLM(SHAPE).to(arguments.device).eval(), "bfloat16")
    add_adapter(plain, LearnerSettings().lora, 0)
    compiled = copy_shared(plain)
    compile_layers(compiled)
    models = {"plain": plain, "compiled": compiled}
    rows = {
        length: torch.randint(SHAPE.vocab_size, (TOKENS // length, length), device=plain.device)
        for length in LENGTHS
    }
    first = [sum(pass_seconds(m, ids) for ids in rows.values()) for m in models.values()]
    print(f"first passes: plain {first[0]:.1f} s, compiled {first[1]:.1f} s")
    print("length    plain: median   least    compiled: median   least    times as fast")
    for length, ids_RT in rows.items():
        found: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(arguments.rounds):
            for name, model in models.items():
                found[name].append(pass_seconds(model, ids_RT))
        (median, least), (fast, fastest) = (
            (statistics.median(taken), min(taken)) for taken in found.values()
        )
        print(
            f"{length:6}{median:17.3f}{least:8.3f}{fast:20.3f}{fastest:8.3f}"
            f"{median / fast:12.2f} / {least / fastest:.2f}"
        )


if __name__ == "__main__":
    main()
