"""Compare the training speed of Plaudit's reward model with TRL's `RewardTrainer`.

    uv run python -m bench.reward_step [--rounds 9] [--threads 2]
    uv run python -m bench.reward_step --size 0.5B --device cuda --peak 989e12   # H200, bf16, dense

There are two tables: pairs, and rankings of four answers to a prompt, which are six pairs each. A
turn is an epoch over the same number of prompts, in steps of 16 pairs. Plaudit takes a ranking of
four as one training example, scores each answer once, and takes steps of 16 rankings. TRL runs in a
separate environment created by uv (a few GB if torch is not in uv's cache yet).
"""

import argparse

from bench.contest import Contestant, Result, beside_trl, contest
from bench.model_sizes import SIZES, Size
from bench.servers import machine
from deploy.sizing.processor import best_dtype, cpu_flags

TRL = "1.16.0"
PROMPTS = 64


def contestants(size: Size, answers: int, device: str, threads: int) -> list[Contestant]:
    """Return TRL and Plaudit, in float32 and in the device's default dtype."""
    default = "bfloat16" if device == "cuda" else best_dtype(cpu_flags())
    common = {
        **size.spec(),
        "prompts": PROMPTS,
        "answers": answers,
        "device": device,
        "threads": threads,
    }
    found = []
    for dtype in dict.fromkeys(("float32", default)):
        spec = {**common, "dtype": dtype}
        found.append(Contestant(f"TRL, {dtype}", "trl_reward_worker", spec, beside_trl(TRL)))
        found.append(Contestant(f"Plaudit, {dtype}", "plaudit_reward_worker", spec))
    return found


def check(results: dict[str, Result], size: Size, pairs: int) -> None:
    """Check that every worker saw all pairs in steps of the stated size."""
    for name, result in results.items():
        units = pairs if name.startswith("TRL") else PROMPTS
        for turn in result.turns:
            assert turn["optimizer_steps"] == -(-units // size.batch), (name, turn)


def table(results: dict[str, Result], size: Size, answers: int, peak: float | None) -> None:
    """Print seconds, pairs per second, and ratios to TRL by medians and minima."""
    pairs = PROMPTS * answers * (answers - 1) // 2
    trl = [name for name in results if name.startswith("TRL")]
    print(
        f"{'':18}{'median':>8}{'least':>8}{'cpu':>8}{'pairs/s':>9}{'tokens/s':>10}"
        + (f"{'MFU':>8}" if peak else "")
        + "   times as fast as "
        + ", ".join(trl)
        + " (by medians / minima)"
    )
    for name, result in results.items():
        median, least = result.median(), result.least()
        sequences = pairs * 2 if name in trl else PROMPTS * answers
        tokens = sequences * (size.prompt + size.response)
        line = f"{name:18}{median:8.3f}{least:8.3f}{result.median('cpu_seconds'):8.3f}"
        line += f"{pairs / median:9.1f}{tokens / median:10.0f}"
        if peak:
            line += f"{size.reward_flops(sequences) / median / peak:8.2%}"
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
    for answers in (2, 4):
        pairs = PROMPTS * answers * (answers - 1) // 2
        print(f"\n{PROMPTS} prompts with {answers} answers each, {pairs} pairs", flush=True)
        results = contest(
            contestants(size, answers, arguments.device, arguments.threads),
            rounds=arguments.rounds,
            warm_up=1,
            threads=arguments.threads,
        )
        check(results, size, pairs)
        print(f"{arguments.rounds} rounds, seconds of an epoch:")
        table(results, size, answers, arguments.peak)


if __name__ == "__main__":
    main()
