"""Measure the speed of the learner's two samplers, and the cost of new weights in vLLM.

    uv run python -m bench.samplers --model FOLDER [--answers 96] [--max-tokens 112] [--rounds 5]

The samplers take turns on the same prompts and weights, with another seed in each round. The time
of the vLLM sampler includes loading the weights, as in PPO. The first round does not count, because
vLLM compiles some kernels in it.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil

from bench.servers import machine
from learner.cycle.inputs import encode_demonstration_prompts
from learner.data.tokenizer import end_token_ids
from learner.models.loading import load_model, load_tokenizer, sampling_temperature
from learner.models.parameters import count_parameters
from learner.sampling.sampler import Sample, Sampler, TransformersSampler
from learner.sampling.vllm_sampler import VllmEngine, VllmSampler

_T = TypeVar("_T")


def timed(work: Callable[[], _T]) -> tuple[float, _T]:
    """Call `work` and return its duration in seconds and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--answers", type=int, default=96)
    parser.add_argument("--max-tokens", type=int, default=112)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(machine())
    model, tokenizer = load_model(arguments.model), load_tokenizer(arguments.model)
    ends, temperature = end_token_ids(tokenizer), sampling_temperature(model)
    prompts = encode_demonstration_prompts(tokenizer, 0, arguments.answers)
    print(f"{count_parameters(model) / 1e6:.1f}M parameters, {len(prompts)} prompts, 1 answer each")
    longest = max(map(len, prompts)) + arguments.max_tokens
    before = psutil.Process().memory_info().rss
    seconds, engine = timed(lambda: VllmEngine(model, max_tokens=longest, batch=arguments.answers))
    print(f"vLLM engine: started in {seconds:.1f} s, including its import")
    samplers: dict[str, Sampler] = {
        "transformers": TransformersSampler(model, ends, batch=arguments.answers),
        "vllm": VllmSampler(model, ends, engine),
    }
    rates: dict[str, list[float]] = {name: [] for name in samplers}
    loads: list[float] = []

    def sample(sampler: Sampler, seed: int) -> list[Sample]:
        return sampler.sample(prompts, 1, arguments.max_tokens, temperature, seed)

    for number in range(arguments.rounds + 1):
        loads.append(timed(lambda: engine.load(model))[0])
        for name, sampler in samplers.items():
            seconds, found = timed(partial(sample, sampler, number))
            rates[name].append(sum(len(s.token_ids) for s in found) / seconds)
    print("sampler       tokens/s: median   slowest   fastest")
    for name, counted in ((name, found[1:]) for name, found in rates.items()):
        print(
            f"{name:12} {statistics.median(counted):17.0f} {min(counted):9.0f} {max(counted):9.0f}"
        )
    print(f"new weights: {statistics.median(loads[1:]):.3f} s, at best {min(loads[1:]):.3f} s")
    grown = (psutil.Process().memory_info().rss - before) / 2**20
    engine.close()
    print(f"memory: {grown:.0f} MiB more than before the engine started, with both samplers in use")


if __name__ == "__main__":
    main()
