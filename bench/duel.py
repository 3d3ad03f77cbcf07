"""Simulate how many votes a trial takes, by the challenger's win rate.

    uv run python -m bench.duel [--seeds 20]

Votes are drawn at random and decided by the learner's own sequential test. Ties are left out: they
would only add to the number of votes.
"""

import argparse
import random
import statistics

from learner.gate.duel import TrialResult, evaluate_trial
from learner.settings import DuelSettings

WIN_RATES = (0.3, 0.35, 0.5, 0.65, 0.7)


def run_trial(win_rate: float, seed: int, settings: DuelSettings) -> TrialResult:
    """Run one trial on simulated votes."""
    rng = random.Random(f"{win_rate} {seed}")
    drawn = (rng.random() < win_rate for _ in range(settings.max_votes))
    return evaluate_trial([1 if won else -1 for won in drawn], settings)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    settings = DuelSettings()
    print(f"alpha {settings.alpha}, beta {settings.beta}, edge {settings.edge}")
    for win_rate in WIN_RATES:
        results = [run_trial(win_rate, seed, settings) for seed in range(options.seeds)]
        taken = sorted(e.wins + e.losses for e in results)
        promoted = sum(bool(e.promoted) for e in results)
        print(
            f"win rate {win_rate:.2f}: promoted {promoted} of {options.seeds}; "
            f"votes: median {statistics.median(taken):.0f}, {taken[0]} to {taken[-1]}; {taken}"
        )


if __name__ == "__main__":
    main()
