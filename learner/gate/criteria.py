"""The gate's criteria: which figures of a candidate must stay within which bounds."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from learner.settings import GateSettings

Sense = Literal["at least", "at most"]


class _Frozen(BaseModel):
    # A figure may be infinite or no number, for which JSON has no other word than a string.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Criterion(_Frozen):
    """One demand of the gate, and how the candidate met it."""

    name: str
    figure: float
    sense: Sense
    bound: float
    passed: bool


def criteria(figures: Mapping[str, float], settings: GateSettings) -> tuple[Criterion, ...]:
    """Return the criteria of the gate; a figure that is NaN meets none of them."""
    demands: tuple[tuple[str, Sense, float], ...] = (
        ("win_rate_lower_bound", "at least", settings.min_win_rate),
        ("kl", "at most", settings.max_kl),
        ("text_nll_increase", "at most", settings.max_text_nll_increase),
        ("ended", "at least", figures["live_ended"] - settings.max_unended_increase),
    )
    return tuple(
        Criterion(
            name=name,
            figure=figures[name],
            sense=sense,
            bound=bound,
            passed=_meets_bound(figures[name], sense, bound),
        )
        for name, sense, bound in demands
    )


def _meets_bound(figure: float, sense: Sense, bound: float) -> bool:
    return figure >= bound if sense == "at least" else figure <= bound
