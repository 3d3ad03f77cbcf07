"""Invented data of the stand-in server: a service that has learned for some days."""

import math
import time
from typing import Any

ANSWERS = (
    "Warm the pot first, then pour **boiling water** over one spoon of tea for each cup.\n\n"
    "1. Let it stand for three to five minutes.\n2. Take the leaves out.\n3. Add milk if you like.",
    "Put a tea bag into a cup, pour hot water over it and wait for about four minutes. "
    "Black tea likes boiling water; green tea is better a little cooler.",
    "Tea? Take water. Make it hot. Put the tea in. Wait. Drink it while it is warm.",
    "I like tea very much. There are many kinds of tea, and people drink tea in many places, "
    "such as at home, at work and in the park.",
)
PROMPTS = (
    "How can I make coffee?",
    "Where does a horse live?",
    "Why do people go to a hospital?",
    "I feel really tired today.",
)
SAMPLES = {
    1: ("My phone in green fields, because water.", "People go to a storm quiet story?",
        "You could read a good book. To take care of a lamp.", "Take care of it, such as."),
    2: ("You need water, coffee and a cup.", "A horse lives in a field or in a stable.",
        "People go there when they are ill.", "I am sorry. Would you like to rest?"),
    4: ("Pour hot water over ground coffee, and wait for four minutes.",
        "A horse lives in a **stable**, and in fields by day.",
        "To get better: doctors and nurses look after them there.",
        "I am sorry to hear that. A short walk or an early night may help."),
    5: ("Pour hot water over ground coffee; four minutes are enough.",
        "In a stable or in a field.", "To see a doctor and get better.",
        "I am sorry. Rest a little, if you can."),
}  # fmt: skip
PARENTS = {2: 1, 3: 2, 4: 2, 5: 4}
STATES = {1: "published", 2: "published", 3: "rolled_back", 4: "published", 5: "live"}
VOTES = {
    1: {},
    2: {"comparison": 98, "rating": 14},
    3: {"comparison": 76, "ranking": 12, "rating": 18},
    4: {"comparison": 91, "ranking": 9, "demonstration": 6},
    5: {"comparison": 84, "rating": 22, "demonstration": 4},
}
FIGURES = {
    2: (0.71, 0.63, 0.71, 0.76, 0.10, 4.2, 2.36),
    3: (0.58, 0.51, 0.73, 0.79, 0.09, 8.9, 2.47),
    4: (0.68, 0.60, 0.82, 0.83, 0.06, 6.8, 2.35),
    5: (0.64, 0.57, 0.88, 0.86, 0.05, 8.1, 2.33),
}
FIGURE_NAMES = (
    "win_rate", "win_rate_lower_bound", "win_rate_over_first", "reward_accuracy",
    "reward_calibration_error", "kl", "text_nll",
)  # fmt: skip
HOUR = 3600.0


def version(number: int, now: float) -> dict[str, Any]:
    return {
        "version": number,
        "parent": PARENTS.get(number, 0),
        "kind": "full",
        "created": now - (6 - number) * 7 * HOUR,
        "state": STATES[number],
        "votes": sum(VOTES[number].values()),
        "from_votes": VOTES[number],
        "figures": dict(zip(FIGURE_NAMES, FIGURES.get(number, ()), strict=False)),
        "has_report": number > 1,
    }


def snapshot(now: float | None = None) -> dict[str, Any]:
    now = time.time() if now is None else now
    return {
        "object": "learning",
        "live": 5,
        "previous": 4,
        "on_trial": None,
        "held": False,
        "loop": {
            "stage": "ppo",
            "cycle": 7,
            "since": now - 96,
            "iteration": 6,
            "iterations": 14,
            "votes_missing": None,
            "reason": "",
        },
        "costs": "What it costs here: 0.5 GiB on disk; about 5 min for a learning cycle.",
        "votes": {
            "total": 481,
            "waiting": 47,
            "kinds": {"comparison": 388, "rating": 61, "ranking": 21, "demonstration": 11},
        },
        "versions": [version(number, now) for number in STATES],
        "refused": [
            {
                "parent": 4,
                "created": now - 10 * HOUR,
                "reasons": [
                    "win rate .51: its lower bound .44 is less than .5",
                    "KL to the SFT policy is 27.3 nats in an answer, more than 25",
                ],
                "figures": {"win_rate": 0.51, "win_rate_lower_bound": 0.44, "kl": 27.3},
            }
        ],
        "replicas": {"replica-0": 5, "replica-1": 5},
    }


def report(number: int) -> dict[str, Any] | None:
    """Return a version's report in the shape of `learner.report.Report`; None for version 1."""
    if number not in FIGURES:
        return None
    figures = dict(zip(FIGURE_NAMES, FIGURES[number], strict=True))
    parent = PARENTS[number]
    before = SAMPLES.get(parent, SAMPLES[2])
    after = SAMPLES.get(number, SAMPLES[4])
    return {
        "tuned": "all weights",
        "data": {
            "votes": VOTES[number],
            "raters": 9 + number,
            "opinions": {"reward": 372, "held_out": 82},
            "prompts": 861,
            "held_out_prompts": 160,
        },
        "iterations": [iteration(n, figures["kl"], number) for n in range(1, 15)],
        "criteria": [
            criterion("win_rate_lower_bound", figures["win_rate_lower_bound"], "at least", 0.5),
            criterion("kl", figures["kl"], "at most", 25.0),
            criterion("text_nll_increase", 0.02, "at most", 0.15),
            criterion("ended", 0.99, "at least", 0.94),
        ],
        "samples": [
            {"prompt": prompt, "before": b, "after": a}
            for prompt, b, a in zip(PROMPTS, before, after, strict=True)
        ],
        "cycle": number,
        "version": number,
        "parent": parent,
        "base": "default",
        "made": "2026-11-21T14:47:25.695749Z",
        "outcome": "published",
        "reasons": [],
        "after_seq": 0,
        "upto_seq": 112,
        "events": 112,
        "figures": figures
        | {"reward_pairs": 72.0, "judge_accuracy": 0.74, "judge_pairs": 72.0, "ppo_number": 14.0},
        "seconds": {"reward": 36.1, "judge": 20.0, "ppo": 92.7, "gate": 15.6, "publish": 0.2},
    }


def criterion(name: str, figure: float, sense: str, bound: float) -> dict[str, Any]:
    return {"name": name, "figure": figure, "sense": sense, "bound": bound, "passed": True}


def iteration(number: int, kl: float, version: int) -> dict[str, float]:
    share = 1 - math.exp(-number / 4)
    wave = math.sin(number * 1.7 + version)
    return {
        "number": float(number),
        "score": -0.4 + (1.0 + 0.1 * version) * share + 0.05 * wave,
        "kl": kl * share + 0.1 * wave * share,
        "entropy": 1.35 - 0.25 * share + 0.02 * wave,
        "length": 35 - 20 * share + wave,
        "clip_ratio": 0.08,
    }


def audit() -> list[dict[str, Any]]:
    now = time.time()
    return [
        {"created": now - 9 * HOUR, "by": "anna", "action": "resumed", "version": None,
         "text": "resumed publishing"},
        {"created": now - 19 * HOUR, "by": "anna", "action": "rolled_back", "version": 3,
         "text": "rolled version 3 back to version 2: it praises every question"},
    ]  # fmt: skip
