"""Measure how much of simulated tastes is learned from few votes: learning curves, minutes.

    uv run python -m bench.tastes [--votes 50 100 200 400] [--seeds 2] [--only NAME ...]
        [--fine-tuned]

The default model answers prompts twice, and simulated raters with a hidden taste compare the
answers, with noise. Each model learns from these votes and predicts comparisons on other prompts.
The table gives, as the mean over the seeds: the accuracy on new votes, beside what a rater who
knows the taste would reach; the share of the information that the noise leaves (1 for the taste
itself, 0 for a coin, below 0 for worse than a coin); and the lower bound of the judge's gain, on
which the gate insists. The models are a linear one on the states, one on the structure, one on
both, the judge (both, with its uncertainty), and with `--fine-tuned` the reward model (calibrated
on the votes that chose its epoch) and what PPO climbs: the reward model mixed with a posterior of
the same votes. PPO, the gate's other criteria and serving are left out.
"""

import argparse
import math
import random
import re
import statistics
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.laboratory import RATERS, Laboratory, build_example
from learner.corpus import prompts
from learner.data.preferences import PreferenceExample
from learner.data.structure import content_words
from learner.gate.judge import JudgeReport, fit_judge
from learner.models.parameters import copy_shared
from learner.ppo.reward import fit_score
from learner.reward.features import example_rows, feature_groups
from learner.reward.linear import LinearFits, cross_fit, standardise
from learner.reward.model import RewardModel
from learner.reward.probe import probe
from learner.reward.reliability import Reliabilities
from learner.reward.training import train_reward
from learner.settings import RewardSettings

NOISE = 0.7  # scale of the logistic noise of a verdict, in units of utility
TEST_PROMPTS = 110
Utility = Callable[[str, str], float]  # of a prompt and an answer


def words(text: str) -> int:
    return len(text.split())


def sentences(text: str) -> int:
    return len(re.findall(r"[.!?](?=\s|$)", text))


def overlap(prompt: str, answer: str) -> float:
    asked = content_words(prompt)
    return len(asked & content_words(answer)) / len(asked) if asked else 0.0


TASTES: dict[str, Utility] = {
    "rising": lambda _, answer: words(answer) / 6,
    "falling": lambda _, answer: -words(answer) / 6,
    "best amount": lambda _, answer: -abs(words(answer) - 26) / 5,
    "two sentences": lambda _, answer: -1.5 * abs(sentences(answer) - 2),
    "conditional": lambda prompt, answer: (1 if words(prompt) > 5 else -1) * words(answer) / 6,
    "conjunctive": lambda _, answer: 3.0 * (words(answer) <= 25 and "!" not in answer),
    "rare": lambda _, answer: 4.0 * answer.rstrip().endswith("?"),
    "on the subject": lambda prompt, answer: 4.0 * overlap(prompt, answer),
    "12 words": lambda _, answer: -abs(words(answer) - 12) / 4,
    "reasons": lambda _, answer: 3.0 * ("because" in answer or " so " in answer),
    "no commas": lambda _, answer: -1.5 * answer.count(","),
    "arbitrary": lambda _, answer: 3.0 * (zlib.crc32(answer.encode()) % 2),
    "40% hostile": lambda _, answer: -words(answer) / 6,
}


@dataclass(frozen=True)
class Answers:
    """Two answers of the default model to each prompt, and their features, [2 x prompts, D]."""

    prompts: list[str]
    texts: list[tuple[str, str]]
    examples: list[PreferenceExample]
    features_AD: Tensor

    def differences(self, utility: Utility) -> list[float]:
        """Return by how much the taste prefers the first answer, in units of the noise."""
        return [
            (utility(prompt, first) - utility(prompt, second)) / NOISE
            for prompt, (first, second) in zip(self.prompts, self.texts, strict=True)
        ]


@dataclass(frozen=True)
class Learned:
    """A model's predictions: the logit that people prefer the first answer, for each test pair."""

    logits_N: Tensor
    report: JudgeReport | None = None


def sample_answers(lab: Laboratory, kind: str, count: int) -> Answers:
    asked = prompts(kind)
    random.Random(0).shuffle(asked)
    rows = [lab.encode(prompt) for prompt in asked[:count]]
    samples = lab.sampler(lab.reference).sample(rows, 2, 112, lab.temperature, 0)
    pairs = list(zip(samples[::2], samples[1::2], strict=True))
    examples = [build_example(prompt, pair, 0) for prompt, pair in zip(asked, pairs, strict=False)]
    texts = [(lab.text_of(first), lab.text_of(second)) for first, second in pairs]
    return Answers(asked[:count], texts, examples, lab.features.of_examples(examples))


def cast_votes(
    answers: Answers, taste: str, count: int, seed: int
) -> tuple[list[PreferenceExample], list[int]]:
    """Return votes on `count` prompts, and the indices of their answers."""
    rng = random.Random(seed)
    chosen = rng.sample(range(len(answers.prompts)), count)
    differences = answers.differences(TASTES[taste])
    hostile = 0.4 if taste == "40% hostile" else 0.0
    votes = []
    for number, at in enumerate(chosen):
        ranks = _verdict(differences[at], rng)
        rater = number % RATERS
        if rater < hostile * RATERS:
            ranks = ranks[::-1]
        votes.append(replace(answers.examples[at], ranks=ranks, rater=f"rater {rater}"))
    return votes, [2 * at + side for at in chosen for side in (0, 1)]


def _verdict(difference: float, rng: random.Random) -> tuple[int, int]:
    if difference == 0 and rng.random() < 0.8:
        return (0, 0)
    return (0, 1) if rng.random() < _sigmoid(difference) else (1, 0)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, x))))


def fit_linear(
    features_AD: Tensor,
    test_AD: Tensor,
    votes: Sequence[PreferenceExample],
    reliabilities: Reliabilities,
    groups: Sequence[int],
) -> Learned:
    """Fit one linear model with the penalty that predicts best in cross-validation."""
    states_AD, mean_D, scale_D = standardise(features_AD, votes, groups)
    reliability_E = states_AD.new_tensor([reliabilities.of(vote.rater) for vote in votes])
    penalty = cross_fit(states_AD, votes, reliability_E).penalty
    fits = LinearFits(states_AD, votes, folds=1)
    parameters = fits.initial_parameters()
    fits.fit(parameters, reliability_E, penalty)
    scores_A = ((test_AD - mean_D) / scale_D @ parameters[0].detach()).squeeze(-1)
    return Learned(scores_A[::2] - scores_A[1::2])


def fit_fine_tuned(
    lab: Laboratory,
    votes: Sequence[PreferenceExample],
    test: Answers,
    reliabilities: Reliabilities,
) -> dict[str, Learned]:
    """Train a reward model on 85% of the votes, and mix it with a posterior of the same votes.

    The other votes choose the epoch, calibrate the reward model, and weigh the two.
    """
    model = RewardModel(copy_shared(lab.reference), pad=lab.pad, seed=lab.seed)
    cut = round(0.85 * len(votes))
    taught, held_out = votes[:cut], votes[cut:]
    report = train_reward(
        model, taught, held_out, RewardSettings(), seed=0, reliabilities=reliabilities
    )
    rows = example_rows(test.examples)
    model.normalise(rows)
    mixed = fit_score(lab.features, model, report, taught, held_out, reliabilities, rows, seed=0)
    scores_A = model.score(rows)
    drawn_SA = mixed.draw(test.features_AD, scores_A)
    logits_N = (scores_A[::2] - scores_A[1::2]) * model.std.cpu() / report.temperature
    return {
        "fine-tuned": Learned(logits_N),
        "mixed": Learned(_mean_logits(drawn_SA[:, ::2] - drawn_SA[:, 1::2])),
    }


def _mean_logits(logits_SN: Tensor) -> Tensor:
    """Return the logits of the mean probabilities, [N]."""
    return logits_SN.sigmoid().mean(0).logit().float()


def fit_models(
    lab: Laboratory, train: Answers, test: Answers, taste: str, count: int, seed: int, tuned: bool
) -> dict[str, Learned]:
    """Return what each model predicts after `count` votes."""
    votes, at = cast_votes(train, taste, count, seed)
    known = probe(lab.features, votes).reliabilities
    features_AD, test_AD = train.features_AD[at], test.features_AD
    states, structure = groups = feature_groups(features_AD)
    judge, report = fit_judge(features_AD, votes, known, seed=seed)
    logits_SN = judge.differences(test_AD[::2], test_AD[1::2])
    found = {
        "states": fit_linear(features_AD[:, :states], test_AD[:, :states], votes, known, [states]),
        "structure": fit_linear(
            features_AD[:, states:], test_AD[:, states:], votes, known, [structure]
        ),
        "both": fit_linear(features_AD, test_AD, votes, known, groups),
        "judge": Learned(_mean_logits(logits_SN), report),
    }
    return found | (fit_fine_tuned(lab, votes, test, known) if tuned else {})


def score(logits_N: Tensor, test: Answers, taste: str) -> tuple[float, float, float]:
    """Return the expected accuracy on new votes, the best possible one, and the share learned.

    Pairs that the taste does not tell apart are left out.
    """
    differences_N = torch.tensor(test.differences(TASTES[taste]))
    told = differences_N != 0
    logits_N, differences_N = logits_N[told], differences_N[told].clamp(-30, 30)
    win_N = differences_N.sigmoid()
    accuracy = torch.where(logits_N > 0, win_N, 1 - win_N).mean().item()
    best = torch.maximum(win_N, 1 - win_N).mean().item()
    loss, least = (
        F.binary_cross_entropy_with_logits(own, win_N).item() for own in (logits_N, differences_N)
    )
    return accuracy, best, (math.log(2) - loss) / (math.log(2) - least)


def mean(values: Iterable[float]) -> str:
    return f"{statistics.mean(values):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--votes", type=int, nargs="+", default=[50, 100, 200, 400])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=sorted(TASTES), default=list(TASTES))
    parser.add_argument("--fine-tuned", action="store_true")
    options = parser.parse_args()
    lab = Laboratory("concise", 0)
    train = sample_answers(lab, "vote", max(options.votes))
    test = sample_answers(lab, "eval", TEST_PROMPTS)
    for taste in options.only:
        for count in options.votes:
            runs = [
                fit_models(lab, train, test, taste, count, seed, options.fine_tuned)
                for seed in range(options.seeds)
            ]
            cells = []
            for name in runs[0]:
                scores = [score(run[name].logits_N, test, taste) for run in runs]
                cells.append(f"{name} {mean(s[0] for s in scores)} ({mean(s[2] for s in scores)})")
            best = score(runs[0]["judge"].logits_N, test, taste)[1]
            reports = [report for run in runs if (report := run["judge"].report)]
            bound = statistics.mean(report.gain_lower_bound for report in reports)
            print(
                f"{taste:15} {count:4} votes, at most {best:.2f}: {', '.join(cells)}; "
                f"judge's gain at least {bound:+.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
