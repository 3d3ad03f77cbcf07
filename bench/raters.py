"""Measure the effect of hostile raters on a reward model, with and without reliability weights.

    uv run python -m bench.raters [--seeds 3] [--preference concise] [--votes 400]

Ten raters vote; none, two or four of them vote against their own preference. The table gives the
share of pairs on prompts without votes that the reward model orders as the hidden preference does;
its accuracy on held-out votes; the lower bound, in nats, of how much better than chance votes
predict each other, which must exceed 0 for PPO; and the number of raters considered unreliable.
"""

import argparse

from bench.laboratory import Laboratory
from bench.servers import machine
from deploy.simulation.raters import PREFERENCES
from learner.data.answers import split_prompt
from learner.data.preferences import PreferenceExample
from learner.reward.model import RewardModel
from learner.settings import RewardSettings


def agreement(model: RewardModel, pairs: list[PreferenceExample]) -> float:
    """Return the share of the pairs without ties that the model orders as ranked."""
    rows = [row for pair in pairs for row in split_prompt(pair.sequences)]
    scores = model.score(rows).view(-1, 2)
    right = [
        (scores[i, 0] > scores[i, 1]).item() == (pair.ranks[0] < pair.ranks[1])
        for i, pair in enumerate(pairs)
        if pair.ranks[0] != pair.ranks[1]
    ]
    return sum(right) / len(right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--votes", type=int, default=400, help="at most 570")
    parser.add_argument("--preference", default="concise", choices=sorted(PREFERENCES))
    arguments = parser.parse_args()
    print(machine())
    print("seed  hostile  raters weighed  hidden pref.     held-out  at least  doubted")
    for seed in range(arguments.seeds):
        lab = Laboratory(arguments.preference, seed)
        answered = lab.ask(lab.reference, arguments.votes, 2)
        fair = lab.votes(lab.ask(lab.reference, 190, 2, cycle=3), noise=0.01)
        for hostile in (0.0, 0.2, 0.4):
            votes = lab.votes(answered, hostile=hostile)
            for uniform_raters in (True, False):
                learned = lab.learn(votes, RewardSettings(), uniform_raters=uniform_raters)
                print(
                    f"{seed:4} {hostile:8.0%}  {'no' if uniform_raters else 'yes':14} "
                    f"{agreement(learned.model, fair):16.2f} {learned.report.accuracy:9.2f} "
                    f"{learned.probed.gain_lower_bound:9.2f} {learned.report.doubted_raters:8}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
