"""The contents of a cycle's report; `learner.report.page` renders them as Markdown.

A report counts raters and votes but contains no text that a person wrote: its samples answer
prompts that come with Plaudit (see `learner.cycle.reporting`). So a forgetting request does not
change it.
"""

import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from learner.gate.criteria import Criterion

Outcome = Literal[
    "published", "refused", "too_few_votes", "reward_model_weak", "overtaken", "failed"
]


class _Frozen(BaseModel):
    # JSON has no infinity and no NaN, so such figures are written as strings.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Data(_Frozen):
    """The data that a cycle learned from.

    Attributes:
        votes: Number of effective feedback events by kind, comments included.
        raters: Number of people who gave them.
        opinions: Number of training examples by split: reward, held_out.
        prompts: Number of prompts of PPO.
        held_out_prompts: Number of distinct prompts of the gate.
        left_out_prompts: Number of recorded prompts that are longer than the limit.
        sizing: The sizes of the cycle and why they were chosen, as sentences.

    """

    votes: dict[str, int]
    raters: int
    opinions: dict[str, int]
    prompts: int
    held_out_prompts: int
    left_out_prompts: int = 0
    sizing: tuple[str, ...] = ()


class SampledPrompt(_Frozen):
    """A prompt with the answers of the parent and of the candidate; "…" marks truncated ones."""

    prompt: str
    before: str
    after: str


class Notes(_Frozen):
    """The parts of a report that the stages of a cycle collect.

    Attributes:
        tuned: Which weights are trained, in words; empty before training begins.
        data: The data that the cycle learns from; None before training begins.
        iterations: Figures of every PPO iteration, in order.
        criteria: The criteria of the gate; empty before the gate.
        samples: Answers before and after training; empty before the gate.

    """

    tuned: str = ""
    data: Data | None = None
    iterations: tuple[dict[str, float], ...] = ()
    criteria: tuple[Criterion, ...] = ()
    samples: tuple[SampledPrompt, ...] = ()


class Report(Notes):
    """A cycle's report.

    Attributes:
        cycle: Number of the cycle.
        version: Version that the candidate was published as; 0 if it was not.
        parent: Version that the cycle started from.
        base: Model that the family of policies descends from.
        made: Time when the report was written, UTC.
        outcome: How the cycle ended. The report in a checkpoint always says "published": it is
            written before the learner can know that another one published first.
        reasons: Reasons why nothing was published.
        after_seq: Ledger row after which the cycle's new votes begin.
        upto_seq: Ledger row of the cycle's last vote.
        events: Number of new votes.
        figures: Figures of the reward model, the judge, PPO's last iteration and the gate.
        seconds: Seconds that each stage took since it was last resumed.

    """

    cycle: int
    version: int
    parent: int
    base: str
    made: datetime.datetime
    outcome: Outcome
    reasons: tuple[str, ...]
    after_seq: int
    upto_seq: int
    events: int
    figures: dict[str, float]
    seconds: dict[str, float]
