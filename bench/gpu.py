"""Check the learner on a GPU, in at most 6 minutes, with torch and transformers alone.

    uv run python -m bench.gpu [--rounds 5] [--peak 989e12]     # H200: its peak in dense bfloat16

It prints steps of PPO and of the reward model of a 0.5B model with random weights, in bfloat16:
tokens per second and utilisation (MFU) beside a hand-written loop and, where it is installed, TRL;
the peak of memory beside the plan's forecast; and whether a resumed run gives the weights of an
uninterrupted one. Without a GPU it does the same with a tiny model, which shows only that the
script works.

A PPO step is a whole iteration with four epochs of one minibatch (see `bench.ppo_step`), a reward
step an epoch over 64 pairs. Utilisation relates the operations that the algorithm needs to the peak
of the device, which is measured by a large matrix product unless given.
"""

import argparse
import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from bench.contest import Contestant, Result, contest
from bench.model_sizes import SIZES, Size
from bench.plaudit_ppo_worker import ppo_inputs, settings_of
from deploy.sizing.plan import Machine, ModelShape, plan, size_text
from deploy.sizing.processor import Dtype, best_dtype, cpu_flags
from learner.errors import Interrupted
from learner.ppo.trainer import Iteration, run_ppo
from learner.settings import LearnerSettings

EPOCHS = 4
PAIRS = 64
TOLERANCE = {"atol": 1e-4, "rtol": 1e-3}


def measured_peak(device: str, dtype: Dtype) -> float:
    """Return the operations per second of a large matrix product, the fastest of a few."""
    size = 8192 if device == "cuda" else 512
    matrix = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    seconds = []
    for _ in range(10):
        _synchronize(device)
        started = time.perf_counter()
        matrix @ matrix
        _synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def contestants(spec: dict[str, Any], work: str) -> list[Contestant]:
    """Return Plaudit, a hand-written loop and, where it is installed, TRL."""
    found = [
        Contestant("Plaudit", f"plaudit_{work}_worker", spec),
        Contestant("hand-written", "plain_worker", spec | {"work": work}),
    ]
    if importlib.util.find_spec("trl") is not None:
        found.append(Contestant("TRL", f"trl_{work}_worker", spec | {"bf16_weights": False}))
    return found


def print_table(results: dict[str, Result], tokens: int, flops: dict[str, float]) -> None:
    """Print seconds of a step, tokens per second, utilisation and the peak of memory."""
    print(f"{'':14}{'median s':>10}{'least s':>10}{'tokens/s':>10}{'MFU':>8}{'memory':>12}")
    for name, result in results.items():
        median = result.median()
        memory = [turn["peak_bytes"] for turn in result.turns if "peak_bytes" in turn]
        print(
            f"{name:14}{median:10.3f}{result.least():10.3f}{tokens / median:10.0f}"
            f"{flops[name] / median / flops['peak']:8.1%}"
            f"{size_text(max(memory)) if memory else 'not known':>12}"
        )


def forecast(size: Size, spec: dict[str, Any], dtype: Dtype) -> str:
    """Return the plan's forecast of the learner's memory when all weights are trained."""
    shape = ModelShape(
        "LlamaForCausalLM",
        parameters=size.parameters(),
        layers=size.layers,
        hidden=size.hidden,
        vocabulary=size.vocabulary,
        linear_dimensions=0,
    )
    machine = Machine(cores=1, memory=2**50, gpus=(), flops=1.0)
    settings = LearnerSettings(ppo=settings_of(spec))
    planned = plan(shape, machine, tune="full", dtype=dtype, settings=settings, cache=0)
    return size_text(planned.learner)


def resume_difference(spec: dict[str, Any]) -> tuple[float, bool]:
    """Return the largest difference of a resumed run's weights, and whether it is tolerated.

    Three iterations in one go are compared with one that is interrupted after the second.
    """
    with tempfile.TemporaryDirectory() as folder:
        whole = _train(spec, Path(folder) / "whole")
        _train(spec, Path(folder) / "parts", stop_after=2)
        resumed = _train(spec, Path(folder) / "parts")
    assert whole is not None
    assert resumed is not None
    pairs = list(zip(whole, resumed, strict=True))
    largest = max((a - b).abs().max().item() for a, b in pairs)
    return largest, all(torch.allclose(a, b, **TOLERANCE) for a, b in pairs)


def _train(
    spec: dict[str, Any], state: Path, stop_after: int | None = None
) -> list[torch.Tensor] | None:
    """Return the policy's weights after three iterations; None if interrupted before."""

    def stop(iteration: Iteration) -> None:
        if stop_after is not None and iteration.number > stop_after:
            raise Interrupted

    settings = settings_of(spec).model_copy(
        update={"iterations": 3, "checkpoint_every": 1, "learning_rate": 1e-4}
    )
    try:
        policy = run_ppo(
            ppo_inputs(spec), settings, seed=0, state=state, dtype=spec["dtype"], on_iteration=stop
        )
    except Interrupted:
        return None
    return [parameter.detach() for parameter in policy.parameters()]


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def compare(name: str, spec: dict[str, Any], peak: float, rounds: int) -> None:
    """Run and print one contest, of PPO or of the reward model."""
    size = SIZES[name]
    length = size.prompt + size.response
    for work in ("ppo", "reward"):
        found = contest(
            contestants(spec, work), rounds=rounds, warm_up=1, threads=torch.get_num_threads()
        )
        if work == "ppo":
            tokens = size.batch * length
            flops = {
                n: size.ppo_flops(epochs=EPOCHS, own_critic=bool(r.facts.get("own_critic")))
                for n, r in found.items()
            }
        else:
            tokens = 2 * PAIRS * length
            flops = dict.fromkeys(found, size.reward_flops(2 * PAIRS))
        print(f"\n{work} of {name}, {rounds} rounds:")
        print_table(found, tokens, flops | {"peak": peak})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", type=float, help="operations per second of the device")
    arguments = parser.parse_args()
    started = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype: Dtype = "bfloat16" if device == "cuda" else best_dtype(cpu_flags())
    name, resumed = ("0.5B", "5M") if device == "cuda" else ("tiny", "tiny")
    where = torch.cuda.get_device_name() if device == "cuda" else "no GPU: a tiny model on the CPU"
    print(f"{where}; torch {torch.__version__}, transformers {transformers.__version__}, {dtype}")
    common = {"epochs": EPOCHS, "device": device, "threads": torch.get_num_threads()}
    common |= {"dtype": dtype, "critic": "default", "prompts": PAIRS, "answers": 2}
    spec = {**SIZES[name].spec(), **common}
    peak = arguments.peak or measured_peak(device, dtype)
    print(f"peak for MFU: {peak / 1e12:.3g} TFLOP/s, {'given' if arguments.peak else 'measured'}")
    compare(name, spec, peak, arguments.rounds)
    print(f"\nthe plan's forecast for PPO in a cycle: {forecast(SIZES[name], spec, dtype)}")
    largest, same = resume_difference({**SIZES[resumed].spec(), **common})
    verdict = "within tolerance" if same else "NOT within tolerance"
    print(f"resumed against uninterrupted PPO of {resumed}: {largest:.2g} at most, {verdict}")
    print(f"took {time.perf_counter() - started:.0f} s")
    raise SystemExit(0 if same else 1)


if __name__ == "__main__":
    main()
