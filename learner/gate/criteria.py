"""The criteria of the gate: figures of a candidate and the bounds that they must meet.

A candidate may be published if it meets all of them (`learner.gate.evaluation`).
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from learner.settings import GateSettings

Sense = Literal["at least", "at most"]


class _Frozen(BaseModel):
    # JSON has no numbers for infinity and NaN, so they are written as strings.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Criterion(_Frozen):
    """One criterion of the gate, and whether the candidate meets it.

    Attributes:
        name: Name of the figure.
        figure: Value of the figure for the candidate.
        sense: Whether the bound is the lowest or the highest accepted value.
        bound: Accepted limit of the figure.
        passed: Whether the figure is within the bound.

    """

    name: str
    figure: float
    sense: Sense
    bound: float
    passed: bool


def criteria(figures: Mapping[str, float], settings: GateSettings) -> tuple[Criterion, ...]:
    """Return every criterion of the gate, evaluated on a candidate's figures.

    A figure that is NaN meets no criterion.

    Args:
        figures: Figures of `learner.gate.evaluation`.
        settings: Bounds of the criteria.

    """
    bounds: tuple[tuple[str, Sense, float], ...] = (
        ("judge_gain_lower_bound", "at least", settings.min_judge_gain),
        ("win_rate_lower_bound", "at least", settings.min_win_rate),
        ("kl", "at most", settings.max_kl),
        ("text_nll_increase", "at most", settings.max_text_nll_increase),
        ("ended", "at least", figures["live_ended"] - settings.max_unended_increase),
        ("answer_nll_increase", "at most", settings.max_answer_nll_increase),
        ("worst_sentence_nll_increase", "at most", settings.max_sentence_nll_increase),
        ("distinct", "at least", figures["first_distinct"] - settings.max_distinct_decrease),
    )
    return tuple(
        Criterion(
            name=name,
            figure=figures[name],
            sense=sense,
            bound=bound,
            passed=_meets_bound(figures[name], sense, bound),
        )
        for name, sense, bound in bounds
    )


def _meets_bound(figure: float, sense: Sense, bound: float) -> bool:
    return figure >= bound if sense == "at least" else figure <= bound
