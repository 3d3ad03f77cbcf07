"""How many votes a duel takes, for challengers of which people prefer so many answers.

    uv run python -m bench.duel [--seeds 20]

Votes are drawn at random; what decides is what the learner runs. Ties only add to the votes.
"""

import argparse
import random
import statistics

from learner.gate.duel import TrialResult, evaluate_trial
from learner.settings import DuelSettings

WIN_RATES = (0.3, 0.35, 0.5, 0.65, 0.7)


def one(win_rate: float, seed: int, settings: DuelSettings) -> TrialResult:
    """Have one duel."""
    source = random.Random(f"{win_rate} {seed}")
    drawn = (source.random() < win_rate for _ in range(settings.max_votes))
    return evaluate_trial([1 if won else -1 for won in drawn], settings)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    settings = DuelSettings()
    print(f"alpha {settings.alpha}, beta {settings.beta}, edge {settings.edge}")
    for win_rate in WIN_RATES:
        ended = [one(win_rate, seed, settings) for seed in range(options.seeds)]
        taken = sorted(e.wins + e.losses for e in ended)
        promoted = sum(bool(e.promoted) for e in ended)
        print(
            f"win rate {win_rate:.2f}: promoted {promoted} of {options.seeds}; "
            f"votes: median {statistics.median(taken):.0f}, {taken[0]} to {taken[-1]}; {taken}"
        )


if __name__ == "__main__":
    main()
