"""Compare a PPO step of Plaudit with TRL's: same models, batch and number of optimizer steps.

    uv run python -m bench.ppo_step [--rounds 9] [--threads 2]
    uv run python -m bench.ppo_step --size 0.5B --device cuda --peak 989e12   # H200, bf16, dense

A step is a whole iteration: sampling, reward model, old and reference log-probabilities, values,
advantages, and four epochs of one minibatch, that is four optimizer steps. TRL's is
`trl.experimental.ppo.PPOTrainer` of the last release that has it, in a separate environment created
by uv (a few GB if torch is not in uv's cache yet). No answer can end early on either side; both
average over 16 answers of exactly 32 tokens.

Wall-clock time is compared. The CPU time of all threads shows how much of it other processes took.
Utilisation (MFU) relates the operations that the algorithm needs (see `Size.ppo_flops`) to the
device's peak for dense products in that dtype.
"""

import argparse

from bench.contest import Contestant, Result, beside_trl, contest
from bench.model_sizes import SIZES, Size
from bench.servers import machine
from deploy.sizing.processor import best_dtype, cpu_flags

TRL = "1.12.0"
EPOCHS = 4


def contestants(size: Size, device: str, threads: int) -> list[Contestant]:
    """Return TRL in float32 and two kinds of bfloat16, and Plaudit by critic and dtype."""
    common = {**size.spec(), "epochs": EPOCHS, "device": device, "threads": threads}
    packages = beside_trl(TRL)

    def trl(name: str, dtype: str, *, bf16_weights: bool = False) -> Contestant:
        spec = {**common, "dtype": dtype, "bf16_weights": bf16_weights}
        return Contestant(f"TRL, {name}", "trl_ppo_worker", spec, packages)

    def plaudit(name: str, dtype: str, critic: str) -> Contestant:
        spec = {**common, "dtype": dtype, "critic": critic}
        return Contestant(f"Plaudit, {name}", "plaudit_ppo_worker", spec)

    default = "bfloat16" if device == "cuda" else best_dtype(cpu_flags())
    found = [
        trl("float32", "float32"),
        trl("bfloat16 autocast", "bfloat16"),
        trl("bfloat16 weights", "bfloat16", bf16_weights=True),
        plaudit("separate critic, float32", "float32", "separate"),
        plaudit("default critic, float32", "float32", "default"),
    ]
    if default != "float32":
        found.append(plaudit(f"separate critic, {default}", default, "separate"))
        found.append(plaudit(f"default critic, {default}", default, "default"))
    return found


def check(results: dict[str, Result], size: Size) -> None:
    """Check that every worker did the same work."""
    for name, result in results.items():
        for turn in result.turns:
            assert turn["optimizer_steps"] == EPOCHS, (name, turn)
            assert turn["tokens"] == size.batch * size.response, (name, turn)


def table(results: dict[str, Result], size: Size, peak: float | None) -> None:
    """Print medians and minima, and the speed relative to each of TRL's workers."""
    trl = [name for name in results if name.startswith("TRL")]
    print(
        f"{'':34}{'median':>8}{'least':>8}{'gener.':>8}{'rest':>8}{'cpu':>8}{'tokens/s':>10}"
        + (f"{'MFU':>8}" if peak else "")
        + "   times as fast as "
        + ", ".join(name.removeprefix("TRL, ") for name in trl)
        + " (by medians / minima)"
    )
    for name, result in results.items():
        median, least = result.median(), result.least()
        rest = sorted(turn["seconds"] - turn["generating"] for turn in result.turns)
        line = f"{name:34}{median:8.3f}{least:8.3f}{result.median('generating'):8.3f}"
        line += f"{rest[len(rest) // 2]:8.3f}{result.median('cpu_seconds'):8.3f}"
        line += f"{size.batch * size.response / median:10.0f}"
        if peak:
            own = bool(result.facts["own_critic"])
            line += f"{size.ppo_flops(epochs=EPOCHS, own_critic=own) / median / peak:8.2%}"
        ratios = [
            f"{results[of].median() / median:.2f}/{results[of].least() / least:.2f}" for of in trl
        ]
        print(f"{line}   {'  '.join(ratios)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", default="5M", choices=sorted(SIZES))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--peak", type=float, help="operations per second of the device")
    arguments = parser.parse_args()
    size = SIZES[arguments.size]
    print(machine())
    print("processor:", ", ".join(sorted(f for f in cpu_flags() if "bf16" in f or "512f" in f)))
    print(f"{arguments.size}: {size}", flush=True)
    results = contest(
        contestants(size, arguments.device, arguments.threads),
        rounds=arguments.rounds,
        warm_up=2,
        threads=arguments.threads,
    )
    check(results, size)
    print(f"{arguments.rounds} rounds, seconds of a step:")
    table(results, size, arguments.peak)


if __name__ == "__main__":
    main()
