"""What the learner makes of a hidden preference: every kind of vote, every guard, several seeds.

    uv run python -m bench.learning_table [--seeds 5] [--preference polite] [--only NAME ...]

Each seed pre-trains and fine-tunes a small model, lets simulated people vote on 400 prompts, trains
a reward model and runs PPO, once for each line of the table: the win rate over the fine-tuned model
under the hidden preference on prompts that nobody voted on, nats from it in an answer, and what
text costs more than it costs the pre-trained model. Left out: the log, the gate and serving; where
the reward model does not explain held-out opinions better than chance, with 95 % (`at least`, in
nats), the learner would have waited for more votes, and changed nothing.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.learning_seeds import SMALL_PPO, Laboratory, make_models
from bench.servers import machine
from deploy.raters import PREFERENCES
from learner.next_token import text_nll
from learner.preferences import Example
from learner.settings import LoraSettings, RewardSettings

VOTES = 400


def compared(lab: Laboratory) -> list[Example]:
    return lab.votes(VOTES)


def hostile(share: float) -> Callable[[Laboratory], list[Example]]:
    return lambda lab: lab.votes(VOTES, hostile=share)


@dataclass(frozen=True)
class Line:
    """One line of the table: which votes, and what differs from the defaults."""

    votes: Callable[[Laboratory], list[Example]] = compared
    believed: bool = False
    live: float = 0.25
    lora: bool = False
    kl_coef: float = SMALL_PPO.kl_coef
    text_coef: float = SMALL_PPO.text_coef


LINES = {
    "default": Line(),
    "no KL": Line(kl_coef=0.0),
    "no ptx": Line(text_coef=0.0),
    "thumbs alone": Line(lambda lab: lab.thumbs(VOTES)),
    "rankings alone": Line(lambda lab: lab.rankings(VOTES // 4)),
    "20% hostile": Line(hostile(0.2)),
    "20% hostile, all believed": Line(hostile(0.2), believed=True),
    "40% hostile": Line(hostile(0.4)),
    "40% hostile, all believed": Line(hostile(0.4), believed=True),
    "live answers alone": Line(live=1.0),
    "adapters": Line(lora=True),
}


def learned(lab: Laboratory, line: Line, folder: Path) -> dict[str, float]:
    """Learn as a line says, and measure what came out."""
    started = time.monotonic()
    lora = LoraSettings() if line.lora else None
    votes = line.votes(lab)
    reward, report = lab.reward_model(votes, RewardSettings(), lora, believed=line.believed)
    ppo = SMALL_PPO.model_copy(
        update={
            "kl_coef": line.kl_coef,
            "text_coef": line.text_coef,
            "live_share": line.live,
            "learning_rate": 1e-3 if line.lora else SMALL_PPO.learning_rate,
        }
    )
    policy, iterations = lab.ppo(
        reward,
        ppo,
        folder,
        lora=lora,
        live=lab.live(VOTES),
    )
    return {
        "accuracy": report.accuracy,
        "least": report.gain_lower_bound,
        "win": lab.win_rate(policy),
        "kl": lab.kl(policy),
        "nll": text_nll(policy, lab.held_out_text) - lab.base_nll,
        "ess": iterations[-1].effective_sample_size,
        "seconds": time.monotonic() - started,
    }


def summary(found: Sequence[dict[str, float]], figure: str) -> tuple[float, float, float]:
    """Give median, least and greatest."""
    values = [one[figure] for one in found]
    return statistics.median(values), min(values), max(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="seed")
    parser.add_argument("--preference", default="polite", choices=sorted(PREFERENCES))
    parser.add_argument("--only", nargs="*", choices=sorted(LINES), default=list(LINES))
    arguments = parser.parse_args()
    print(machine())
    print(
        "seed  line                        RM acc  at least   win    KL  text NLL   ESS  seconds",
        flush=True,
    )
    found = defaultdict(list)
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        with TemporaryDirectory() as scratch:
            make_models(Path(scratch), seed)
            lab = Laboratory(Path(scratch), arguments.preference, seed)
            for name in arguments.only:
                one = learned(lab, LINES[name], Path(scratch))
                found[name].append(one)
                print(
                    f"{seed:4}  {name:26} {one['accuracy']:7.2f} {one['least']:9.2f} "
                    f"{one['win']:5.2f} "
                    f"{one['kl']:5.1f} {one['nll']:+9.2f} {one['ess']:5.2f} {one['seconds']:8.0f}",
                    flush=True,
                )
    print("line                        win: median (least)   KL: median   text NLL: greatest")
    for name, of in found.items():
        win, least, _ = summary(of, "win")
        print(
            f"{name:26} {win:12.2f} ({least:.2f}) {summary(of, 'kl')[0]:14.1f} "
            f"{summary(of, 'nll')[2]:+20.2f}"
        )


if __name__ == "__main__":
    main()
