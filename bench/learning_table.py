"""Measure how well the learner follows a hidden preference: kinds of votes, safeguards, seeds.

    uv run python -m bench.learning_table [--seeds 5] [--preference polite] [--only NAME ...]

Every line of the table runs two cycles of the default model as in the service, once per seed of
the votes: simulated raters give 200 votes on answers of the live policy, a reward model is
trained on all votes so far, and PPO continues from the live policy. The table gives, on prompts
without votes, the win rate over the SFT policy under the hidden preference after each cycle; the
KL from the SFT policy in nats per answer; and the increase of its text NLL. Where votes do not
predict each other better than chance (the 95% lower bound of the gain, in nats, is at most 0), the
learner skips PPO. The log, the gate and serving are left out.
"""

import argparse
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.laboratory import SMALL_PPO, AnsweredPrompts, Laboratory
from bench.servers import machine
from deploy.simulation.raters import PREFERENCES
from learner.data.preferences import PreferenceExample
from learner.ppo.off_policy import OffPolicyAnswer
from learner.pretraining.next_token import text_nll
from learner.settings import LoraSettings, RewardSettings

VOTES = 400
CYCLES = 2


Raters = Callable[[Laboratory, AnsweredPrompts], list[PreferenceExample]]


def hostile(share: float) -> Raters:
    return lambda lab, answered: lab.votes(answered, hostile=share)


@dataclass(frozen=True)
class Line:
    """One line of the table: the raters, the answers per prompt, and settings that differ."""

    raters: Raters = Laboratory.votes
    answers: int = 2
    prompts: int = VOTES
    cycles: int = CYCLES
    iterations: int = SMALL_PPO.iterations
    uniform_raters: bool = False
    live_share: float = 0.25
    lora: bool = False
    kl_coef: float = SMALL_PPO.kl_coef
    text_coef: float = SMALL_PPO.text_coef


LINES = {
    "default": Line(),
    "first cycle, short": Line(prompts=VOTES // CYCLES, cycles=1, iterations=6),
    "no KL": Line(kl_coef=0.0),
    "no ptx": Line(text_coef=0.0),
    "no KL, no ptx": Line(kl_coef=0.0, text_coef=0.0),
    "thumbs alone": Line(Laboratory.thumbs, answers=1),
    "rankings alone": Line(Laboratory.rankings, answers=4, prompts=VOTES // 4),
    "20% hostile": Line(hostile(0.2)),
    "20% hostile, raters equal": Line(hostile(0.2), uniform_raters=True),
    "40% hostile": Line(hostile(0.4)),
    "40% hostile, raters equal": Line(hostile(0.4), uniform_raters=True),
    "off-policy answers alone": Line(live_share=1.0),
    "adapters": Line(lora=True),
}


@dataclass(frozen=True)
class LearningResult:
    """Figures of the reward model and the policy after the last cycle."""

    accuracy: float
    gain: float
    wins: tuple[float, ...]
    kl: float
    nll_increase: float
    effective_samples: float
    seconds: float

    @property
    def win(self) -> float:
        """Win rate after the last cycle."""
        return self.wins[-1]


def run_line(lab: Laboratory, line: Line, folder: Path) -> LearningResult:
    """Run the cycles of one line, and measure the result."""
    started = time.monotonic()
    lora = LoraSettings() if line.lora else None
    settings = SMALL_PPO.model_copy(
        update={
            "iterations": line.iterations,
            "kl_coef": line.kl_coef,
            "text_coef": line.text_coef,
            "live_share": line.live_share,
            "learning_rate": 1e-3 if line.lora else SMALL_PPO.learning_rate,
        }
    )
    policy = lab.to_train(lora)
    votes: list[PreferenceExample] = []
    off_policy: list[OffPolicyAnswer] = []
    wins: list[float] = []
    samples = math.nan
    for cycle in range(line.cycles):
        answered = lab.ask(policy, line.prompts // line.cycles, line.answers, cycle)
        votes += line.raters(lab, answered)
        off_policy = [OffPolicyAnswer(one.sample, one.staleness + 1) for one in off_policy]
        off_policy += lab.off_policy_answers(answered)
        learned = lab.learn(votes, RewardSettings(), lora, uniform_raters=line.uniform_raters)
        if learned.predictable:
            policy, last = lab.ppo(policy, learned, settings, folder, live=off_policy, cycle=cycle)
            samples = last.effective_sample_size
        wins.append(lab.win_rate(policy))
    return LearningResult(
        accuracy=learned.report.accuracy,
        gain=learned.probed.gain_lower_bound,
        wins=tuple(wins),
        kl=lab.kl(policy),
        nll_increase=text_nll(policy, lab.held_out_text) - lab.base_nll,
        effective_samples=samples,
        seconds=time.monotonic() - started,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--preference", default="polite", choices=sorted(PREFERENCES))
    parser.add_argument("--only", nargs="*", choices=sorted(LINES), default=list(LINES))
    arguments = parser.parse_args()
    print(machine())
    print(
        "seed  line                        RM acc  at least  win: first  last"
        "    KL  text NLL   ESS  seconds",
        flush=True,
    )
    found = defaultdict(list)
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        with TemporaryDirectory() as scratch:
            lab = Laboratory(arguments.preference, seed)
            for name in arguments.only:
                one = run_line(lab, LINES[name], Path(scratch))
                found[name].append(one)
                print(
                    f"{seed:4}  {name:26} {one.accuracy:7.2f} "
                    f"{one.gain:9.2f} {one.wins[0]:11.2f} {one.win:5.2f} "
                    f"{one.kl:5.1f} {one.nll_increase:+9.2f} {one.effective_samples:5.2f} "
                    f"{one.seconds:8.0f}",
                    flush=True,
                )
    print("line                        win: median (least)   KL: median   text NLL: greatest")
    for name, of in found.items():
        print(
            f"{name:26} {statistics.median(one.win for one in of):12.2f} "
            f"({min(one.win for one in of):.2f}) {statistics.median(one.kl for one in of):14.1f} "
            f"{max(one.nll_increase for one in of):+20.2f}"
        )


if __name__ == "__main__":
    main()
