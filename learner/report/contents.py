"""What a cycle did, as data; it becomes a page in `learner.report.page`.

It counts people and votes, and holds no text of anybody: its samples answer prompts that come
with Plaudit (`learner.cycle.reporting`). Nothing has to be removed from it when a person is
forgotten.
"""

import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from learner.gate.criteria import Criterion

Outcome = Literal["published", "refused", "too_few_votes", "reward_model_weak", "overtaken"]


class _Frozen(BaseModel):
    # A figure may be infinite or no number, for which JSON has no other word than a string.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Data(_Frozen):
    """What a cycle learned from.

    Attributes:
        votes: That count, by kind; comments too, though they teach nothing.
        raters: Who gave them.
        opinions: To learn from, by where their prompts belong: reward, judge, held_out.
        prompts: That PPO learned on.
        held_out_prompts: Of the gate, distinct.

    """

    votes: dict[str, int]
    raters: int
    opinions: dict[str, int]
    prompts: int
    held_out_prompts: int


class SampledPrompt(_Frozen):
    """A prompt, answered by the parent and by the candidate; what did not end has an ellipsis."""

    prompt: str
    before: str
    after: str


class Notes(_Frozen):
    """What the stages of a cycle leave for its report.

    Attributes:
        tuned: Which weights were trained.
        iterations: Figures of every PPO iteration, in order.

    """

    tuned: str = ""
    data: Data | None = None
    iterations: tuple[dict[str, float], ...] = ()
    criteria: tuple[Criterion, ...] = ()
    samples: tuple[SampledPrompt, ...] = ()


class Report(Notes):
    """A cycle's report.

    Attributes:
        version: As which the candidate was published; 0 where none was.
        base: What the family of policies descends from.
        made: When the report was written, UTC.
        outcome: How the cycle ended. In a checkpoint always "published", since it is written
            before it can be known that another learner was faster.
        reasons: Why nothing was published.
        after_seq: The cycle's new votes come after this row of the ledger ...
        upto_seq: ... and end with this one.
        events: New votes.
        figures: Of the reward model, the judge, PPO's last iteration and the gate, by name.
        seconds: That each stage took, since it was last resumed.

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
