"""Measure the gate's forecasts for simulated tastes without PPO: some minutes.

    uv run python -m bench.taste_gate [--votes 28 40 100] [--seeds 4] [--only NAME ...]
        [--own-votes]

Simulated people with a hidden taste compare the default model's answers, as in `bench.tastes`. The
candidate of the gate is what a score climbs: of several answers to a prompt, the one that the
pessimistic posterior of the votes likes best. The gate forecasts its win rate over other answers
of the default model, and the taste tells the truth: *truth* by the taste itself, *noisy* as people
would vote. A candidate passes if the judge predicts votes better than chance and the forecast's
lower bound is at least one half. With `--own-votes`, a second judge learns from 40% of the prompts
that the score did not learn from, as before judges learned from all votes.
"""

import argparse
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import torch
from torch import Tensor

from bench.laboratory import Laboratory
from bench.servers import machine
from bench.tastes import NOISE, TASTES, Answers, cast_votes, sample_answers
from learner.corpus import prompts
from learner.data.preferences import PreferenceExample
from learner.gate.judge import JudgeReport, fit_judge
from learner.gate.win_rate import WinRate, estimate_win_rate, win_probabilities
from learner.ppo.reward import pessimistic
from learner.ppo.rollouts import rows_from_samples
from learner.reward.posterior import ScorePosterior
from learner.reward.probe import probe
from learner.settings import GateSettings

PROMPTS: Final = 110
SAMPLES: Final = 32  # answers to each prompt
CLIMBS: Final = (4, 32)  # answers of which the best is the candidate's
OWN_SHARE: Final = 0.4


@dataclass(frozen=True)
class Pool:
    """Answers to choose candidates from.

    Attributes:
        prompts: P prompts.
        texts: N answers to each prompt.
        features_PND: Their features.

    """

    prompts: list[str]
    texts: list[list[str]]
    features_PND: Tensor

    def utilities(self, taste: str) -> Tensor:
        """Return the taste's utility of each answer in units of the noise, [P, N]."""
        utility = TASTES[taste]
        return torch.tensor(
            [
                [utility(prompt, text) / NOISE for text in texts]
                for prompt, texts in zip(self.prompts, self.texts, strict=True)
            ],
            dtype=torch.float64,
        )


@dataclass(frozen=True)
class Forecast:
    """What a judge says of a candidate, and the truth.

    Attributes:
        truth: Win rate by the taste.
        noisy: Expected share of people's votes.
        win_rate: Forecast.
        gain: Lower bound of the judge's gain over chance.

    """

    truth: float
    noisy: float
    win_rate: WinRate
    gain: float

    @property
    def passed(self) -> bool:
        bounds = GateSettings()
        return self.win_rate.lower >= bounds.min_win_rate and self.gain >= bounds.min_judge_gain


def sample_pool(lab: Laboratory) -> Pool:
    asked = prompts("eval")
    random.Random(1).shuffle(asked)
    asked = asked[:PROMPTS]
    rows = [lab.encode(prompt) for prompt in asked]
    samples = lab.sampler(lab.reference).sample(rows, SAMPLES, 112, lab.temperature, 5)
    texts = [lab.text_of(sample) for sample in samples]
    features_AD = lab.features.of(rows_from_samples(samples))
    return Pool(
        asked,
        [texts[i : i + SAMPLES] for i in range(0, len(texts), SAMPLES)],
        features_AD.view(len(asked), SAMPLES, -1),
    )


def forecasts(
    lab: Laboratory, pool: Pool, train: Answers, taste: str, votes: int, seed: int, own: bool
) -> Iterator[tuple[str, int, Forecast]]:
    """Yield the judge's name, how far the candidate climbs, and the forecast."""
    examples, at = cast_votes(train, taste, votes, seed)
    features_AD = train.features_AD[at]
    known = probe(lab.features, examples).reliabilities

    def fit(chosen: Sequence[int]) -> tuple[ScorePosterior, JudgeReport]:
        rows = [2 * i + side for i in chosen for side in (0, 1)]
        picked: list[PreferenceExample] = [examples[i] for i in chosen]
        return fit_judge(features_AD[rows], picked, known, seed=seed)

    everything = list(range(votes))
    judges = {"all votes": fit(everything)}
    teaches = everything
    if own:
        order = random.Random(seed).sample(everything, votes)
        cut = round(OWN_SHARE * votes)
        judges["own votes"] = fit(order[:cut])
        teaches = order[cut:]
    score, _ = fit(teaches)
    flat_AD = pool.features_PND.flatten(0, 1)
    scores_PN = pessimistic(score.scores(flat_AD)).view(len(pool.prompts), SAMPLES)
    utilities_PN = pool.utilities(taste)
    every = torch.arange(len(pool.prompts))
    generator = torch.Generator().manual_seed(seed)
    live_PD = pool.features_PND[every, torch.randint(SAMPLES, every.shape, generator=generator)]
    for climb in CLIMBS:
        best_P = scores_PN[:, :climb].argmax(1)
        ahead_PN = utilities_PN[every, best_P][:, None] - utilities_PN
        noisy_PN = torch.where(ahead_PN == 0, 0.5, ahead_PN.clamp(-30, 30).sigmoid())
        for name, (judge, report) in judges.items():
            differences_SP = judge.differences(pool.features_PND[every, best_P], live_PD)
            win_rate = estimate_win_rate(
                win_probabilities(differences_SP, judge.log_tie), pool.prompts, seed=seed
            )
            yield (
                name,
                climb,
                Forecast(
                    truth=((ahead_PN > 0) + 0.5 * (ahead_PN == 0)).double().mean().item(),
                    noisy=noisy_PN.mean().item(),
                    win_rate=win_rate,
                    gain=report.gain_lower_bound,
                ),
            )


def summarise(found: Sequence[Forecast]) -> str:
    """Return the share of forecasts that hold the truth, and who passed."""
    within = sum(f.win_rate.lower <= f.noisy <= f.win_rate.upper for f in found)
    above = sum(f.win_rate.lower <= f.noisy for f in found)
    worse = [f.passed for f in found if f.truth < 0.5]
    better = [f.passed for f in found if f.truth >= 0.6]
    return (
        f"mean truth {statistics.mean(f.truth for f in found):.2f}; of {len(found)} intervals "
        f"{within} hold the share of votes, {above} lower bounds do; passed: {sum(worse)} of "
        f"{len(worse)} that are worse, {sum(better)} of {len(better)} that are better by 60:40"
    )


def describe(found: Sequence[Forecast]) -> str:
    figures = {
        "truth": [f.truth for f in found],
        "noisy": [f.noisy for f in found],
        "forecast": [f.win_rate.mean for f in found],
        "from": [f.win_rate.lower for f in found],
        "to": [f.win_rate.upper for f in found],
    }
    means = ", ".join(f"{name} {statistics.mean(values):.2f}" for name, values in figures.items())
    return f"{means}; passed {sum(f.passed for f in found)} of {len(found)}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--votes", type=int, nargs="+", default=[28, 40, 100])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--only", nargs="+", choices=sorted(TASTES), default=list(TASTES))
    parser.add_argument("--own-votes", action="store_true")
    options = parser.parse_args()
    print(machine(), flush=True)
    lab = Laboratory("concise", 0)
    train = sample_answers(lab, "vote", max(options.votes) + 200)
    pool = sample_pool(lab)
    found: dict[tuple[str, int, int], list[Forecast]] = {}
    for taste, votes in product(options.only, options.votes):
        here: dict[tuple[str, int], list[Forecast]] = {}
        for seed in range(options.seeds):
            for name, climb, forecast in forecasts(
                lab, pool, train, taste, votes, seed, options.own_votes
            ):
                here.setdefault((name, climb), []).append(forecast)
                found.setdefault((name, votes, climb), []).append(forecast)
        for (name, climb), several in here.items():
            print(
                f"{taste:15} {votes:4} votes, best of {climb:2}, {name}: {describe(several)}",
                flush=True,
            )
    for (name, votes, climb), several in sorted(found.items()):
        print(f"{name}, {votes} votes, best of {climb}: {summarise(several)}")


if __name__ == "__main__":
    main()
