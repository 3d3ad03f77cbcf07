"""The state of a learning cycle: one small JSON file, replaced after every stage."""

from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from learner.errors import StateUnusable
from learner.report.contents import Outcome
from learner.sizing import CycleSizes
from protos.checkpoints.durable import write_bytes

Stage = Literal["reward", "judge", "ppo", "gate", "publish", "done"]

FILE: Final = "state.json"
# Counts the changes of what a cycle saves of its reward models; a cycle in training with models of
# another format restarts.
MODELS_FORMAT: Final = 1
DEATHS_FILE: Final = "deaths.json"
_MEASURED_STAGES: Final = ("reward", "judge", "ppo", "gate")
_MAX_DEATHS: Final = 5  # in one stage, wherever in it


class SeedSalt(IntEnum):
    """What a seed of a cycle is for; every purpose has a seed of its own."""

    LOADED_MODEL = 0  # its random weights are overwritten
    REWARD_MODEL = 1
    JUDGE = 2
    NORMALISATION = 3
    PPO = 4
    GATE = 5
    ADAPTER = 6
    POSTERIOR = 7


class CycleState(BaseModel):
    """State of one cycle.

    Attributes:
        number: Number of the cycle, from 1.
        parent: Version that the cycle starts from.
        after_seq: Last ledger row that the parent learned from.
        upto_seq: Last ledger row that this cycle learns from.
        events: Number of votes in ledger rows (after_seq, upto_seq].
        forgettings: The ledger's last forgetting request when training began; the cycle uses no
            data of the people forgotten until then.
        trusted_owners: Owners whose users were trusted when the cycle began
            (`learner.data.owner_bound`).
        tuning: Which weights are trained, as `LearnerSettings.tuning`; empty before training.
        models_format: `MODELS_FORMAT` of the release that trained the cycle's models; 0 before
            training, and of the first releases.
        sizes: Sizes that were chosen for the cycle, which stay when it is resumed; None before
            training.
        resumed: Whether stages were resumed, so that `seconds` do not tell how long they take.
        stage: Next stage to run.
        outcome: How the cycle ended; None while it runs.
        version: Version that the candidate is published as; 0 until one is reserved.
        figures: Figures of the reward model, the judge, PPO's last iteration and the gate.
        reasons: Reasons why nothing was published.
        seconds: Seconds that each stage took since it was last resumed.

    """

    model_config = ConfigDict(extra="forbid")

    number: int
    parent: int
    after_seq: int
    upto_seq: int
    events: int
    forgettings: int = 0
    trusted_owners: frozenset[str] = frozenset()
    tuning: str = ""
    models_format: int = 0
    sizes: CycleSizes | None = None
    resumed: bool = False
    stage: Stage = "reward"
    outcome: Outcome | None = None
    version: int = 0
    figures: dict[str, float] = {}
    reasons: list[str] = []
    seconds: dict[str, float] = {}

    def save(self, folder: Path) -> None:
        """Write the state file to the cycle's folder, replacing an earlier one."""
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / FILE, self.model_dump_json(indent=2).encode())

    def seed(self, base: int, salt: SeedSalt) -> int:
        """Return the seed for one purpose in this cycle, derived from the learner's seed `base`."""
        return base * 1_000_003 + self.number * 101 + salt

    def restart(self, *, events: int, forgettings: int) -> None:
        """Go back to the first stage, with the votes that are left."""
        self.events = events
        self.forgettings = forgettings
        self.stage = "reward"
        self.sizes = None
        self.resumed = False
        self.version = 0
        self.figures = {}

    def end(self, outcome: Outcome, reasons: list[str]) -> None:
        """End the cycle."""
        self.stage = "done"
        self.outcome = outcome
        self.reasons = reasons


class Place(BaseModel):
    """Where in a cycle the learner works.

    Attributes:
        stage: Stage of the cycle.
        step: Step of the stage, counted from 0.
        votes: Ledger rows of the votes in work; empty if the step is not about single votes.

    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: Stage
    step: int = 0
    votes: tuple[int, ...] = ()


class DeathRecord(BaseModel):
    """The places at which the learner died in a cycle, and the place at which it works.

    The file is replaced at every step without a sync to the disk: it must survive the process, not
    the machine. A place that is still noted at the next start is one at which the process died.

    Attributes:
        deaths: Places of deaths, oldest first.
        current: Place at which the learner works; None between the stages.

    """

    model_config = ConfigDict(extra="forbid")

    deaths: list[Place] = []
    current: Place | None = None

    @classmethod
    def load(cls, folder: Path) -> "DeathRecord":
        """Return the record in a cycle's folder, with a new death if the last process died."""
        try:
            record = cls.model_validate_json((folder / DEATHS_FILE).read_bytes())
        except (OSError, ValidationError):  # there is none, or it was lost with the machine
            return cls()
        if record.current is not None:
            record.deaths.append(record.current)
            record.current = None
        return record

    def enter(self, folder: Path, place: Place | None) -> None:
        """Note the place at which the learner works from now on."""
        self.current = place
        new = folder / f"{DEATHS_FILE}.new"
        new.write_text(self.model_dump_json())
        new.replace(folder / DEATHS_FILE)

    def forget(self, folder: Path) -> None:
        """Delete the record of a cycle that has ended."""
        self.deaths.clear()
        self.current = None
        (folder / DEATHS_FILE).unlink(missing_ok=True)

    def suspects(self) -> set[int] | None:
        """Return the votes in work at the last death and at an earlier one.

        The set is empty if the learner died twice at one place, or five times in one stage, without
        such votes. None if there is nothing that must be set aside yet.
        """
        if not self.deaths:
            return None
        last, earlier = self.deaths[-1], self.deaths[:-1]
        in_stage = [death for death in earlier if death.stage == last.stage]
        for death in reversed(in_stage):
            if common := set(last.votes) & set(death.votes):
                return common
        repeated = not last.votes and any(d.step == last.step for d in in_stage if not d.votes)
        return set() if repeated or len(in_stage) + 1 >= _MAX_DEATHS else None


def cycle_folder(home: Path, number: int) -> Path:
    """Return the folder of a cycle."""
    return home / "learner" / "cycles" / f"{number:03d}"


def measured_rate(home: Path) -> float | None:
    """Return how fast the last cycle was that ran through the gate without being resumed.

    It is in operations per parameter of PPO in a second of the whole cycle (`learner.sizing`). None
    if there is no such cycle.
    """
    for file in reversed(_state_files(home)):
        with suppress(OSError, ValidationError):
            state = CycleState.model_validate_json(file.read_bytes())
            if state.sizes is not None and not state.resumed and "gate" in state.seconds:
                seconds = sum(state.seconds.get(stage, 0.0) for stage in _MEASURED_STAGES)
                return state.sizes.work / max(seconds, 0.1)
    return None


def _state_files(home: Path) -> list[Path]:
    files = (home / "learner" / "cycles").glob(f"*/{FILE}")
    return sorted(files, key=lambda path: int(path.parent.name))


def latest_cycle(home: Path) -> CycleState | None:
    """Return the state of the latest cycle; None before the first one.

    Raises:
        StateUnusable: The state file was not written by this version of the learner.

    """
    files = _state_files(home)
    if not files:
        return None
    try:
        return CycleState.model_validate_json(files[-1].read_bytes())
    except ValidationError as error:
        raise StateUnusable(
            f"cannot read the state of the cycle in {files[-1]}: {error}"
        ) from error
