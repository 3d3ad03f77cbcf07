"""Run whole learning cycles, with the gate, on simulated people's tastes: some minutes each.

    uv run python -m bench.taste_cycles [--only NAME ...] [--seeds 1] [--cycles 2] [--votes 200]
        [--show 5]

The default model answers prompts, simulated people with a hidden taste vote on the answers, and a
cycle trains the reward model, the judge and the policy, and asks the gate on further prompts of the
same kind. A candidate that passes goes live, and answers the prompts of the next cycle. Printed for
each cycle: the win rate over the live version on prompts without votes, by the taste itself
(*truth*), as people with it would vote (*noisy*), and as the gate forecasts it; the win rate of
what is live over version 1; the share of distinct answers of four; the increase of the
text NLL; and `--show` prompts with version 1's answer and the candidate's. In the end: how often
the forecast's interval holds the truth, candidates that are worse than the live version and pass,
and candidates that are better by 60:40 and do not. The log, trials and serving are left out.
"""

import argparse
import math
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

from transformers import PreTrainedModel

from bench.default_model import names, stated_facts
from bench.laboratory import RATERS, SMALL_PPO, AnsweredPrompts, Laboratory, build_example
from bench.servers import machine
from bench.tastes import NOISE, TASTES, Utility, words
from learner.corpus import prompts
from learner.corpus.entities import Entity, entities
from learner.data.preferences import PreferenceExample
from learner.gate.evaluation import GateInputs, GateResult, evaluate_candidate
from learner.models.parameters import copy_shared
from learner.ppo.off_policy import OffPolicyAnswer
from learner.settings import GateSettings, RewardSettings

MAX_TOKENS: Final = 112
GATE_PROMPTS: Final = 160
Kind = Literal["comparisons", "thumbs", "rankings"]


@cache
def _asked(prompt: str) -> Entity | None:
    return next((entity for entity in entities() if names(entity, prompt)), None)


def rightness(prompt: str, answer: str) -> float:
    """Return the utility of an answer to people who want facts that are right."""
    entity = _asked(prompt)
    stated = list(stated_facts(entity, answer)) if entity else []
    return min(2, sum(stated)) - 3.0 * (len(stated) - sum(stated))


@dataclass(frozen=True)
class People:
    """People who vote.

    Attributes:
        tastes: Utility of an answer to each crowd; the crowds are of equal size.
        later: Utilities in the cycles after the first, if they change.
        kind: How they vote.
        hostile: Share of people who vote against their taste.
        careless: Share of people who vote at random.

    """

    tastes: tuple[Utility, ...]
    later: tuple[Utility, ...] = ()
    kind: Kind = "comparisons"
    hostile: float = 0.0
    careless: float = 0.0

    def tastes_in(self, cycle: int) -> tuple[Utility, ...]:
        return self.later if cycle and self.later else self.tastes

    @property
    def answers(self) -> int:
        """Answers to a prompt on which they vote."""
        return {"comparisons": 2, "thumbs": 1, "rankings": 4}[self.kind]


FALLING, QUESTION = TASTES["falling"], TASTES["rare"]
PEOPLE: Final = {
    **{name: People((TASTES[name],)) for name in TASTES if name != "40% hostile"},
    "two crowds": People((FALLING, FALLING, QUESTION)),
    "drifting": People((FALLING,), later=(QUESTION,)),
    "20% hostile": People((FALLING,), hostile=0.2),
    "40% hostile": People((FALLING,), hostile=0.4),
    "30% careless": People((FALLING,), careless=0.3),
    "thumbs": People((FALLING,), kind="thumbs"),
    "rankings": People((FALLING,), kind="rankings"),
    "facts": People((rightness,)),
}


def cast_votes(
    lab: Laboratory, people: People, answered: AnsweredPrompts, cycle: int
) -> Iterator[PreferenceExample]:
    """Yield a vote on the answers to each prompt; people take turns."""
    rng = random.Random(answered.seed)
    thresholds = [rng.gauss(0, 1) for _ in range(RATERS)]
    tastes = people.tastes_in(cycle)
    for number, (prompt, samples) in enumerate(
        zip(answered.prompts, answered.answers, strict=True)
    ):
        rater = number % RATERS
        taste = tastes[rater % len(tastes)]
        utilities = [taste(prompt, lab.text_of(sample)) / NOISE for sample in samples]
        if rater < people.hostile * RATERS:
            utilities = [-utility for utility in utilities]
        elif rater >= RATERS * (1 - people.careless):
            utilities = [0.0] * len(samples)
        if people.kind == "thumbs":
            typical = statistics.median(_typical_utilities(lab, taste)) / NOISE
            difference = utilities[0] - typical - thresholds[rater]
            up = rng.random() < 1 / (1 + math.exp(-max(-30.0, min(30.0, difference))))
            yield build_example(prompt, samples, rater, approvals=(float(up),))
            continue
        tie = len(set(utilities)) == 1 and people.careless == 0 and rng.random() < 0.8
        # Ordering utilities with Gumbel noise samples from the Plackett-Luce model.
        noisy = [utility - math.log(rng.expovariate(1)) for utility in utilities]
        order = sorted(range(len(noisy)), key=lambda i: -noisy[i])
        ranks = (0,) * len(noisy) if tie else tuple(order.index(i) for i in range(len(noisy)))
        yield build_example(prompt, samples, rater, ranks=ranks)


@cache
def _typical_utilities(lab: Laboratory, taste: Utility) -> tuple[float, ...]:
    pairs = zip(prompts("eval"), answers_of(lab, lab.reference, 0), strict=True)
    return tuple(taste(prompt, answer) for prompt, answer in pairs)


def answers_of(lab: Laboratory, model: PreTrainedModel, seed: int) -> list[str]:
    """Return an answer to each prompt of the evaluation."""
    samples = lab.sampler(model).sample(lab.eval_prompts, 1, MAX_TOKENS, lab.temperature, seed)
    return [lab.text_of(sample) for sample in samples]


def _differences(
    tastes: Sequence[Utility], answers: Sequence[str], others: Sequence[str]
) -> list[float]:
    return [
        taste(prompt, answer) - taste(prompt, other)
        for taste in tastes
        for prompt, answer, other in zip(prompts("eval"), answers, others, strict=True)
    ]


def win_rate(tastes: Sequence[Utility], answers: Sequence[str], others: Sequence[str]) -> float:
    """Return the share of prompts to which people with these tastes prefer the first answers."""
    differences = _differences(tastes, answers, others)
    return statistics.mean(0.5 if d == 0 else float(d > 0) for d in differences)


def vote_share(tastes: Sequence[Utility], answers: Sequence[str], others: Sequence[str]) -> float:
    """Return the expected share of people's votes for the first answers."""
    logits = (max(-30.0, min(30.0, d / NOISE)) for d in _differences(tastes, answers, others))
    return statistics.mean(1 / (1 + math.exp(-logit)) for logit in logits)


@dataclass(frozen=True)
class CycleResult:
    """What a cycle came to.

    Attributes:
        outcome: "passed", or the reason why nothing goes live.
        gate: Figures of the gate; empty if it was not asked.
        truth: Win rate of the candidate over the live version, by the taste; 0.5 without one.
        noisy: The same as people would vote.
        over_first: Win rate of what is live after the cycle over version 1, by the taste.
        length: Words in an answer of what is live after the cycle, mean.
        seconds: Duration without the measurement of the truth.

    """

    outcome: str
    gate: dict[str, float]
    truth: float
    noisy: float
    over_first: float
    length: float
    seconds: float

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"


class Run:
    """The cycles of one crowd of people."""

    def __init__(self, people: People, seed: int, votes: int, folder: Path, show: int) -> None:
        self.people, self.count, self.folder, self.show = people, votes, folder, show
        self.lab = Laboratory("concise", seed)
        self.live = self.lab.to_train(None)
        self.votes: list[PreferenceExample] = []
        self.off_policy: list[OffPolicyAnswer] = []

    def cycle(self, number: int) -> CycleResult:
        """Cast votes, train, ask the gate, and measure the truth."""
        started, lab = time.monotonic(), self.lab
        asked = self.count // (self.people.answers if self.people.kind == "rankings" else 1)
        answered = lab.ask(self.live, asked, self.people.answers, number)
        self.votes += cast_votes(lab, self.people, answered, number)
        self.off_policy = [OffPolicyAnswer(o.sample, o.staleness + 1) for o in self.off_policy]
        self.off_policy += lab.off_policy_answers(answered)
        candidate, gate, reason = self._learn(number)
        seconds = time.monotonic() - started
        tastes = self.people.tastes_in(number)
        first = answers_of(lab, lab.reference, 1)
        before = answers_of(lab, self.live, 2)
        after = answers_of(lab, candidate, 3) if candidate is not None else before
        truth = win_rate(tastes, after, before) if candidate is not None else 0.5
        noisy = vote_share(tastes, after, before) if candidate is not None else 0.5
        self._print_answers(first, after)
        if gate is not None and gate.passed and candidate is not None:
            self.live, now = candidate, after
        else:
            now = before
        return CycleResult(
            outcome=reason,
            gate=gate.figures if gate else {},
            truth=truth,
            noisy=noisy,
            over_first=win_rate(tastes, now, first),
            length=statistics.mean(map(words, now)),
            seconds=seconds,
        )

    def _learn(self, number: int) -> tuple[PreTrainedModel | None, GateResult | None, str]:
        lab = self.lab
        learned = lab.learn(self.votes, RewardSettings())
        if not learned.predictable:
            return None, None, "the votes do not predict each other"
        bounds, gain = GateSettings(), learned.judged.gain_lower_bound
        if gain < bounds.min_judge_gain:
            return None, None, f"the judge is weak: {gain:+.3f}"
        candidate, _ = lab.ppo(
            copy_shared(self.live),
            learned,
            SMALL_PPO,
            self.folder,
            live=self.off_policy,
            cycle=number,
        )
        inputs = GateInputs(
            candidate=candidate,
            reference=lab.reference,
            candidate_sampler=lab.sampler(candidate),
            live_sampler=lab.sampler(self.live),
            first_sampler=lab.sampler(lab.reference) if number else None,
            judge=learned.posteriors.judge,
            judge_gain_lower_bound=gain,
            features=lab.features,
            prompts=self._gate_prompts(number),
            text=lab.held_out_text,
            base_text_nll=lab.base_nll,
        )
        ppo = SMALL_PPO.model_copy(update={"temperature": lab.temperature})
        gate = evaluate_candidate(inputs, bounds, ppo, seed=lab.seed + number)
        return candidate, gate, "passed" if gate.passed else "; ".join(gate.reasons)

    def _gate_prompts(self, number: int) -> list[list[int]]:
        """Return prompts such as people ask, on which nobody votes in this cycle or before."""
        asked = prompts("vote")
        random.Random(self.lab.seed).shuffle(asked)  # as `Laboratory.ask` does
        return [self.lab.encode(prompt) for prompt in asked[-GATE_PROMPTS * (number + 1) :]][
            :GATE_PROMPTS
        ]

    def _print_answers(self, first: Sequence[str], after: Sequence[str]) -> None:
        shown = list(zip(prompts("eval"), first, after, strict=True))
        for prompt, old, new in random.Random(0).sample(shown, self.show):
            print(f"    {prompt}\n      1: {old}\n      now: {new}")


def describe(name: str, seed: int, number: int, result: CycleResult) -> str:
    gate = result.gate
    forecast = (
        f"{gate['win_rate']:.2f} [{gate['win_rate_lower_bound']:.2f}, "
        f"{gate['win_rate_upper_bound']:.2f}], distinct {gate['distinct']:.2f} of "
        f"{gate['first_distinct']:.2f}, text {gate['text_nll_increase']:+.3f}, "
        f"KL {gate['kl']:.1f}"
        if gate
        else "-"
    )
    return (
        f"{name:15} seed {seed} cycle {number + 1}: truth {result.truth:.2f}, noisy "
        f"{result.noisy:.2f}, gate {forecast}; "
        f"live over version 1 {result.over_first:.2f}, {result.length:.1f} words, "
        f"{result.seconds:.0f} s; {result.outcome}"
    )


def summarise(found: dict[str, list[list[CycleResult]]]) -> Iterator[str]:
    """Yield the lines of the summary."""
    for name, runs in found.items():
        last = [run[-1].over_first for run in runs]
        least = min(one.over_first for run in runs for one in run)
        median = statistics.median(last)
        yield f"{name:15} win over version 1: median {median:.2f}, least {least:.2f}"
    judged = [one for runs in found.values() for run in runs for one in run if one.gate]
    if not judged:
        return
    held = sum(
        one.gate["win_rate_lower_bound"] <= one.noisy <= one.gate["win_rate_upper_bound"]
        for one in judged
    )
    worse = [one.passed for one in judged if one.truth < 0.5]
    better = [one.passed for one in judged if one.truth >= 0.6]
    yield f"the interval holds the noisy win rate in {held} of {len(judged)} candidates"
    yield f"passed: {sum(worse)} of {len(worse)} that are worse"
    yield f"passed: {sum(better)} of {len(better)} that are better by 60:40"


def run_people(name: str, seed: int, options: argparse.Namespace) -> list[CycleResult]:
    found = []
    with TemporaryDirectory() as folder:
        run = Run(PEOPLE[name], seed, options.votes, Path(folder), options.show)
        for number in range(options.cycles):
            found.append(run.cycle(number))
            print(describe(name, seed, number, found[-1]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=sorted(PEOPLE), default=list(PEOPLE))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cycles", type=int, default=2)
    parser.add_argument("--votes", type=int, default=200, help="votes in a cycle")
    parser.add_argument("--show", type=int, default=0, help="prompts whose answers are shown")
    options = parser.parse_args()
    print(machine(), flush=True)
    found: dict[str, list[list[CycleResult]]] = {
        name: [run_people(name, seed, options) for seed in range(options.seeds)]
        for name in options.only
    }
    print(*summarise(found), sep="\n")


if __name__ == "__main__":
    main()
