"""Renders the report of a cycle as Markdown."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from learner.report.contents import Report

CHART_FILE: Final = "report.svg"
_OUTCOMES: Final[dict[str, str]] = {
    "published": "The candidate passed the gate.",
    "refused": "The gate refused the candidate:",
    "too_few_votes": "There were too few votes to learn from:",
    "reward_model_weak": "Votes do not generalise across prompts yet, so no policy was trained:",
    "overtaken": "The candidate was not published, because another version was published first:",
    "failed": "The learner died repeatedly at one place, so the cycle was given up:",
}
_CRITERIA: Final = {
    "judge_gain_lower_bound": "gain of the judge over chance, lower bound (95%), nats per vote",
    "win_rate_lower_bound": "win rate against the parent, lower bound (95%)",
    "kl": "KL to the SFT policy, nats per answer",
    "text_nll_increase": "increase of the text loss, nats per token",
    "ended": "share of finished answers",
    "answer_nll_increase": "increase of the answers' loss under version 1, nats per token",
    "worst_sentence_nll_increase": "the same for the worst sentence of each answer",
    "distinct": "share of distinct answers of four",
}
_FIGURES: Final = {
    "trained_on": "training examples",
    "pairs": "held-out pairs",
    "accuracy": "held-out accuracy",
    "lower_bound": "lower bound of the accuracy (95%)",
    "calibration_error": "calibration error",
    "loss": "held-out loss, nats per example",
    "gain": "gain over chance, nats per example",
    "gain_lower_bound": "lower bound of the gain (95%)",
    "gain_upper_bound": "upper bound of the gain (95%)",
    "epochs": "epochs",
    "doubted_raters": "doubted raters",
    "posterior_share": "share of the linear posterior in PPO's reward",
}
_CURVES: Final = {
    "score": "reward",
    "preferred": "preferred",
    "kl": "KL",
    "entropy": "entropy",
    "clip_ratio": "clipped",
    "length": "length",
}
_MAX_ROWS: Final = 16  # rows of PPO's table; the JSON has every iteration


def markdown(report: Report) -> str:
    """Return the report as Markdown that refers to `CHART_FILE` in the same folder."""
    parts = (_head, _gate, _data, _reward_models, _ppo, _samples, _time)
    return "\n\n".join(text for part in parts if (text := part(report))) + "\n"


def _head(report: Report) -> str:
    published = report.outcome == "published"
    title = f"Version {report.version}" if published else f"Cycle {report.cycle}: not published"
    lines = [
        f"# {title}",
        "",
        f"Cycle {report.cycle}, {report.made:%Y-%m-%d %H:%M} UTC, from version {report.parent}. "
        f"Base: {report.base}. Trained: {report.tuned or 'nothing'}.",
        "",
        f"**{_OUTCOMES[report.outcome]}**",
        *(f"\n- {reason}" for reason in report.reasons),
    ]
    return "\n".join(lines)


def _gate(report: Report) -> str:
    if not report.criteria:
        return ""
    rows = [
        (
            _CRITERIA.get(c.name, _plain(c.name)),
            _number(c.figure),
            f"{c.sense} {_number(c.bound)}",
            "pass" if c.passed else "**fail**",
        )
        for c in report.criteria
    ]
    return "## Gate\n\n" + _table(("criterion", "figure", "bound", ""), rows) + _remaining(report)


def _remaining(report: Report) -> str:
    """Return the figures that are in none of the tables, as a sentence."""
    shown = {c.name for c in report.criteria}
    others = [
        f"{_plain(name)} {_number(value)}"
        for name, value in report.figures.items()
        if name not in shown and name.partition("_")[0] not in ("reward", "judge", "probe", "ppo")
    ]
    return f"\n\nAlso: {', '.join(others)}." if others else ""


def _data(report: Report) -> str:
    if report.data is None:
        return ""
    data, votes = report.data, report.data.votes
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(votes.items())) or "none"
    parts = ", ".join(f"{count} {_plain(part)}" for part, count in data.opinions.items())
    sizing = "".join(f"\n- {sentence}" for sentence in data.sizing)
    return (
        f"## Data\n\n"
        f"- Votes: {sum(votes.values())} ({kinds}) by {data.raters} raters, {report.events} new "
        f"(ledger rows {report.after_seq + 1} to {report.upto_seq})\n"
        f"- Training examples by split: {parts}\n"
        f"- Prompts: {data.prompts} for PPO, {data.held_out_prompts} held out for the gate, "
        f"{data.left_out_prompts} left out because they are longer than the limit{sizing}"
    )


def _reward_models(report: Report) -> str:
    figures = report.figures
    names = [name.partition("_")[2] for name in figures if name.startswith(("reward_", "judge_"))]
    rows = [
        (
            _FIGURES.get(name, _plain(name)),
            _cell(figures, f"reward_{name}"),
            _cell(figures, f"judge_{name}"),
            _cell(figures, f"probe_{name}"),
        )
        for name in dict.fromkeys(names)
    ]
    if not rows:
        return ""
    return "## Reward model and judge\n\n" + _table(
        ("", "reward model", "judge", "linear probe"), rows
    )


def _ppo(report: Report) -> str:
    if not report.iterations:
        return ""
    rows = [
        [_cell(iteration, name) for name in ("number", *_CURVES)]
        for iteration in _subsample(report.iterations)
    ]
    return (
        f"## PPO\n\n![Reward, KL and entropy by iteration]({CHART_FILE})\n\n"
        + _table(("iteration", *_CURVES.values()), rows)
        + "\n\nReward: normalised mean. Judge: wins over typical rated answers; the candidate is "
        "the policy at the start of the iteration in which it is highest. KL: nats per answer. "
        "Entropy: nats per token. Clipped: share of tokens. Length: tokens per answer."
    )


def _subsample(iterations: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Return at most `_MAX_ROWS` evenly spaced iterations, including the first and the last."""
    if len(iterations) <= _MAX_ROWS:
        return list(iterations)
    last = len(iterations) - 1
    return [iterations[round(row * last / (_MAX_ROWS - 1))] for row in range(_MAX_ROWS)]


def _samples(report: Report) -> str:
    if not report.samples:
        return ""
    blocks = [
        _code_block(f"> {sample.prompt}", f"before: {sample.before}", f"after:  {sample.after}")
        for sample in report.samples
    ]
    note = f"Before: version {report.parent}. Sampled at the serving temperature with a fixed seed."
    return "\n\n".join(["## Samples", note, *blocks])


def _time(report: Report) -> str:
    if not report.seconds:
        return ""
    times = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in report.seconds.items())
    return f"## Time\n\n{times}"


def _code_block(*lines: str) -> str:
    """Return a code block around model output, so that nothing in it is read as Markdown."""
    text = "\n".join(lines)
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _cell(figures: Mapping[str, float], name: str) -> str:
    return _number(figures[name]) if name in figures else ""


def _number(value: float) -> str:
    if math.isfinite(value) and value == round(value):
        return f"{value:.0f}"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"
