"""Where a learning cycle is: one small JSON file, replaced after every stage."""

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from learner.errors import StateUnusable
from learner.report.contents import Outcome
from protos.checkpoints.durable import write_bytes

Stage = Literal["reward", "judge", "ppo", "gate", "publish", "done"]

FILE: Final = "state.json"


class CycleState(BaseModel):
    """One cycle.

    Attributes:
        parent: Version that it starts from.
        after_seq: The parent learned from ledger rows up to this one.
        upto_seq: This cycle learns from rows up to this one.
        events: Opinions in (after_seq, upto_seq].
        forgettings: The ledger's last forgetting when training began; it is without those people.
        tuning: What kind of weights it trains; "" before any were.
        stage: What is to be done next.
        outcome: How it ended.
        version: That it publishes as; 0 before that is decided.
        figures: Of the reward model, the judge, PPO's last iteration and the gate.
        reasons: Why the gate refused, or nothing was tried.
        seconds: Time that each stage took, since it was last resumed.

    """

    model_config = ConfigDict(extra="forbid")

    number: int
    parent: int
    after_seq: int
    upto_seq: int
    events: int
    forgettings: int = 0
    tuning: str = ""
    stage: Stage = "reward"
    outcome: Outcome | None = None
    version: int = 0
    figures: dict[str, float] = {}
    reasons: list[str] = []
    seconds: dict[str, float] = {}

    def save(self, folder: Path) -> None:
        """Replace the state file in the cycle's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / FILE, self.model_dump_json(indent=2).encode())

    def seed(self, base: int, salt: int) -> int:
        """Return the seed of one of the cycle's steps, for a learner's own seed."""
        return base * 1_000_003 + self.number * 101 + salt

    def restart(self, *, events: int, forgettings: int) -> None:
        """Begin with the first stage again, since opinions were erased."""
        self.events = events
        self.forgettings = forgettings
        self.stage = "reward"
        self.version = 0
        self.figures = {}

    def end(self, outcome: Outcome, reasons: list[str]) -> None:
        """Nothing more is to be done."""
        self.stage = "done"
        self.outcome = outcome
        self.reasons = reasons


def cycle_folder(home: Path, number: int) -> Path:
    """Return the folder of a cycle."""
    return home / "learner" / "cycles" / f"{number:03d}"


def latest(home: Path) -> CycleState | None:
    """Read the latest cycle's state; None before the first.

    Raises:
        StateUnusable: The file is not what this version of the learner writes.

    """
    found = sorted(
        (home / "learner" / "cycles").glob(f"*/{FILE}"), key=lambda p: int(p.parent.name)
    )
    if not found:
        return None
    try:
        return CycleState.model_validate_json(found[-1].read_bytes())
    except ValidationError as error:
        raise StateUnusable(f"{found[-1]} cannot be read: {error}") from error
