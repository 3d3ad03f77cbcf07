"""The runner of a cycle, with stages that train nothing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from feedback.log.event_log import LogUnavailable
from learner.cycle.context import CycleContext
from learner.cycle.metrics import Metrics
from learner.cycle.runner import run_cycle
from learner.cycle.stages import STAGES, StageResult
from learner.cycle.state import (
    CycleState,
    DeathRecord,
    Stage,
    cycle_folder,
    latest_cycle,
    measured_rate,
)
from learner.data.preferences import PreferenceExample
from learner.data.work import working_on
from learner.errors import Interrupted, ModelUnusable
from learner.report.contents import Report
from learner.settings import LearnerSettings
from learner.sizing import CycleSizes

Stages = Mapping[Stage, Callable[[CycleContext], StageResult]]


class FakeLedger:
    """A ledger of ten votes, of which every forgetting request erases one."""

    def __init__(self) -> None:
        self.forgettings = 0
        self.reasons: dict[int, str] = {}

    def set_aside(self, reasons: Mapping[int, str]) -> None:
        self.reasons |= reasons

    def last_forgetting(self) -> int:
        return self.forgettings

    def count_effective(self, *_: int) -> int:
        return 10 - self.forgettings


class FakePublisher:
    """A publisher that records the reported stages; the registry has no version."""

    def __init__(self) -> None:
        self.reported: list[str] = []

    def report_stage(self, stage: str, *_: int) -> None:
        self.reported.append(stage)

    def has_version(self, _: int) -> bool:
        return False

    def base_model(self) -> str:
        return "tiny"


class Cycle:
    """A cycle that can be run with stages of a test."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.patch = monkeypatch
        self.ledger = FakeLedger()
        self.publisher = FakePublisher()
        self.metrics = Metrics()
        self.state = CycleState(number=1, parent=1, after_seq=0, upto_seq=10, events=10)
        self.context = self._new_context()

    def start_again(self) -> None:
        """Continue in a new process."""
        found = latest_cycle(self.home)
        assert found is not None
        self.state = found
        self.context = self._new_context()

    def _new_context(self) -> CycleContext:
        return CycleContext(
            home=self.home,
            state=self.state,
            configured=LearnerSettings(),
            ledger=cast(Any, self.ledger),
            publisher=cast(Any, self.publisher),
            metrics=self.metrics,
            stopped=lambda: False,
        )

    def run(self, stages: Stages) -> CycleState:
        for name, stage in stages.items():
            self.patch.setitem(cast(Any, STAGES), name, stage)
        return run_cycle(self.context)


@pytest.fixture
def cycle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cycle:
    return Cycle(tmp_path, monkeypatch)


def goes_on(stage: Stage, **figures: float) -> Callable[[CycleContext], StageResult]:
    return lambda _: StageResult(stage, figures)


def refuse(_: CycleContext) -> StageResult:
    return StageResult("done", {"win_rate": 0.4}, outcome="refused", reasons=("worse",))


def interrupt(_: CycleContext) -> StageResult:
    raise Interrupted


def test_stages_follow_each_other_until_the_cycle_ends(cycle: Cycle) -> None:
    candidate = cycle.context.candidate

    def train(_: CycleContext) -> StageResult:
        candidate.mkdir()
        return StageResult("gate", {"ppo_kl": 2.0}, tuning="full")

    state = cycle.run(
        {
            "reward": goes_on("judge", reward_gain=0.5),
            "judge": goes_on("ppo", judge_gain=0.25),
            "ppo": train,
            "gate": refuse,
        }
    )
    assert cycle.publisher.reported == ["reward", "judge", "ppo", "gate"]
    assert (state.stage, state.outcome, state.reasons) == ("done", "refused", ["worse"])
    assert state.tuning == "full"
    assert list(state.figures) == ["reward_gain", "judge_gain", "ppo_kl", "win_rate"]
    assert state.seconds.keys() == {"reward", "judge", "ppo", "gate"}
    assert latest_cycle(cycle.home) == state
    report = Report.model_validate_json((cycle.context.folder / "report.json").read_bytes())
    assert (report.outcome, report.figures) == ("refused", state.figures)
    assert not candidate.exists()
    ended = {"outcome": "refused"}
    assert cycle.metrics.registry.get_sample_value("plaudit_learner_cycles_total", ended) == 1


def test_an_interrupted_stage_is_the_next_one_to_run(cycle: Cycle) -> None:
    with pytest.raises(Interrupted):
        cycle.run({"reward": goes_on("judge", reward_gain=0.5), "judge": interrupt})
    saved = latest_cycle(cycle.home)
    assert saved is not None
    assert (saved.stage, saved.outcome, saved.figures) == ("judge", None, {"reward_gain": 0.5})


SIZES = CycleSizes(
    max_prompt_tokens=256, max_tokens=64, micro_tokens=512, rollouts=16, iterations=4, work=1000.0
)


def test_a_resumed_cycle_keeps_its_sizes_and_measures_no_speed(cycle: Cycle) -> None:
    def train(_: CycleContext) -> StageResult:
        return StageResult("judge", tuning="full", sizes=SIZES)

    with pytest.raises(Interrupted):
        cycle.run({"reward": train, "judge": interrupt})
    cycle.start_again()
    assert cycle.state.sizes == SIZES
    inputs = SimpleNamespace(settings=SimpleNamespace(tuning="full"))
    cycle.context.data = cast(Any, SimpleNamespace(inputs=inputs, close=lambda: None))
    state = cycle.run({"judge": goes_on("gate"), "gate": refuse})
    assert cycle.publisher.reported == ["reward", "judge", "judge", "gate"]
    assert (state.sizes, state.resumed) == (SIZES, True)
    assert measured_rate(cycle.home) is None


def test_the_speed_is_that_of_the_last_whole_cycle(cycle: Cycle) -> None:
    assert measured_rate(cycle.home) is None
    seconds = {"reward": 10.0, "judge": 5.0, "ppo": 20.0, "gate": 5.0, "publish": 1000.0}
    slow = cycle.state.model_copy(update={"sizes": SIZES, "seconds": seconds})
    slow.save(cycle_folder(cycle.home, 1))
    assert measured_rate(cycle.home) == 1000 / 40
    fast = {**seconds, "ppo": 5.0}
    slow.model_copy(update={"seconds": fast}).save(cycle_folder(cycle.home, 2))
    assert measured_rate(cycle.home) == 1000 / 25
    weak = {"reward": 1.0, "judge": 1.0}
    slow.model_copy(update={"seconds": weak}).save(cycle_folder(cycle.home, 3))
    slow.model_copy(update={"seconds": weak | seconds, "resumed": True}).save(
        cycle_folder(cycle.home, 4)
    )
    assert measured_rate(cycle.home) == 1000 / 25


def test_a_cycle_that_starts_anew_chooses_its_sizes_anew(cycle: Cycle) -> None:
    cycle.state.sizes, cycle.state.resumed = SIZES, True
    cycle.state.restart(events=9, forgettings=1)
    assert (cycle.state.sizes, cycle.state.resumed) == (None, False)


def test_a_cycle_restarts_without_a_person_forgotten_meanwhile(cycle: Cycle) -> None:
    weights = cycle.context.folder / "reward.pt"
    runs: list[object] = []

    def train_reward_model(context: CycleContext) -> StageResult:
        assert not weights.exists(), "trained with the person's votes"
        runs.append(context.data)
        weights.touch()
        return StageResult("judge", {"reward_gain": float(len(runs))})

    def train_judge(_: CycleContext) -> StageResult:
        cycle.ledger.forgettings = 1
        return StageResult("gate", {"judge_gain": 0.5} if len(runs) == 1 else {})

    state = cycle.run({"reward": train_reward_model, "judge": train_judge, "gate": refuse})
    assert cycle.publisher.reported == ["reward", "judge", "reward", "judge", "gate"]
    assert runs[0] is not runs[1], "the data are loaded anew"
    assert (state.events, state.forgettings) == (9, 1)
    assert state.figures == {"reward_gain": 2.0, "win_rate": 0.4}


def dies(step: int = 0, votes: tuple[int, ...] = ()) -> Callable[[CycleContext], StageResult]:
    def die(context: CycleContext) -> StageResult:
        context.enter(step, votes)
        raise RuntimeError("out of memory")

    return die


def test_votes_at_which_the_learner_dies_twice_are_set_aside(cycle: Cycle) -> None:
    for votes in ((2, 3, 4), (8, 9), (3, 4, 5)):
        with pytest.raises(RuntimeError):
            cycle.run({"reward": dies(votes=votes)})
        assert cycle.ledger.reasons == {}
        cycle.start_again()
    cycle.context.folder.joinpath("reward.pt").write_text("of all votes")

    def train(context: CycleContext) -> StageResult:
        assert not context.folder.joinpath("reward.pt").exists()
        return refuse(context)

    state = cycle.run({"reward": train})
    reason = "the learner died twice in stage 'reward' while it worked on this vote"
    assert cycle.ledger.reasons == {3: reason, 4: reason}
    assert state.outcome == "refused"
    assert not cycle.context.folder.joinpath("deaths.json").exists()


def test_the_votes_of_a_batch_are_noted_while_the_learner_works_on_them(cycle: Cycle) -> None:
    examples = [PreferenceExample("key", (), (), seq=seq) for seq in (7, 5, 7)]

    def train(context: CycleContext) -> StageResult:
        with working_on(examples[:1]):
            pass
        assert DeathRecord.load(context.folder).deaths[-1].votes == ()
        with working_on(examples):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        cycle.run({"reward": train})
    [death] = DeathRecord.load(cycle.context.folder).deaths
    assert (death.stage, death.votes) == ("reward", (5, 7))


def test_a_cycle_that_dies_twice_at_one_step_is_given_up(cycle: Cycle) -> None:
    for step in (3, 4, 3):
        with pytest.raises(RuntimeError):
            cycle.run({"reward": dies(step)})
        cycle.start_again()
    state = cycle.run({"reward": dies(5)})
    assert (state.stage, state.outcome) == ("done", "failed")
    assert state.reasons == ["the learner died 3 times in stage 'reward', step 3"]
    assert cycle.ledger.reasons == {}
    assert latest_cycle(cycle.home) == state, "the next cycle can begin"


def test_a_cycle_that_dies_at_five_places_of_a_stage_is_given_up(cycle: Cycle) -> None:
    for step in range(5):
        with pytest.raises(RuntimeError):
            cycle.run({"reward": dies(votes=(step + 1,))})
        cycle.start_again()
    assert cycle.run({"reward": dies()}).outcome == "failed"


@pytest.mark.parametrize(
    "error", [Interrupted(), OSError("no space"), LogUnavailable("away"), ModelUnusable("none")]
)
def test_errors_of_the_surroundings_are_no_deaths(cycle: Cycle, error: Exception) -> None:
    def fail(_: CycleContext) -> StageResult:
        raise error

    for _ in range(6):
        with pytest.raises(type(error)):
            cycle.run({"reward": fail})
        cycle.start_again()
    assert cycle.run({"reward": refuse}).outcome == "refused"


def test_a_note_that_was_lost_with_the_machine_is_no_death(cycle: Cycle) -> None:
    cycle.context.folder.mkdir(parents=True)
    cycle.context.folder.joinpath("deaths.json").write_text('{"deaths": [{"sta')
    assert cycle.run({"reward": refuse}).outcome == "refused"


def test_a_cycle_whose_models_an_earlier_release_trained_restarts(cycle: Cycle) -> None:
    cycle.state.stage, cycle.state.tuning = "gate", "full"
    cycle.state.figures = {"judge_gain_lower_bound": 0.1}
    inputs = SimpleNamespace(settings=SimpleNamespace(tuning="full"))
    cycle.context.data = cast(Any, SimpleNamespace(inputs=inputs, close=lambda: None))
    assert cycle.run({"reward": refuse}).outcome == "refused"
    assert cycle.publisher.reported == ["reward"]
