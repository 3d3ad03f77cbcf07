"""Killed cycles that are resumed or restarted end with the expected weights."""

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from feedback.control.policies import current_state
from feedback.log.records import feedback_record
from feedback.log.sqlite_log import SqliteLog
from learner.cycle.state import latest_cycle
from learner.report.contents import Notes
from learner.settings import LearnerSettings
from protos.checkpoints.folder_registry import FolderRegistry
from protos.plaudit.v1.checkpoint_pb2 import CHECKPOINT_KIND_FULL
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent, Forgetting
from protos.plaudit.v1.policy_pb2 import PolicyEvent
from tests.support.learner_cycles import (
    ADAPTER,
    LORA,
    SETTINGS,
    cycle_report,
    read_report,
    run_until_done_or_killed,
    weights,
)
from tests.support.learning import make_home


def run_with_kills(home: Path, failpoints: Sequence[str], settings: LearnerSettings) -> None:
    """Run a cycle to its end, killing and restarting it at each failpoint."""
    armed = home.parent / f"{home.name}.failpoints"
    for failpoint in failpoints:
        armed.write_text(f"{failpoint}=kill\n")
        assert run_until_done_or_killed(home, armed, settings) == -signal.SIGKILL, failpoint
        assert armed.read_text() == "", failpoint
        assert 2 not in FolderRegistry(home / "registry").versions(), failpoint
    run_until_done_or_killed(home, settings=settings)


def test_a_cycle_killed_at_every_stage_gives_the_same_weights(
    finished_home: Path, tmp_path: Path
) -> None:
    home = make_home(tmp_path / "home")
    stages = ("reward", "judge", "ppo.iteration", "ppo.trained", "gate", "publish")
    run_with_kills(home, [f"learner.{stage}" for stage in stages], SETTINGS)
    assert weights(home) == weights(finished_home)
    found, whole = cycle_report(home), cycle_report(finished_home)
    assert (found.data, found.iterations) == (whole.data, whole.iterations)
    assert (found.samples, found.figures) == (whole.samples, whole.figures)


def test_ppo_killed_between_two_checkpoints_reports_every_iteration_once(
    finished_home: Path, tmp_path: Path
) -> None:
    home = make_home(tmp_path / "home")
    armed = tmp_path / "failpoints"
    armed.write_text("learner.ppo.iteration=sleep:0\nlearner.ppo.iteration=kill\n")
    assert run_until_done_or_killed(home, armed) == -signal.SIGKILL
    notes = home / "learner" / "cycles" / "001" / "notes.json"
    noted = Notes.model_validate_json(notes.read_bytes()).iterations
    assert [i["number"] for i in noted] == [1, 2], (
        "the second is in the notes, but its training state is not saved"
    )
    run_until_done_or_killed(home)
    assert cycle_report(home).iterations == cycle_report(finished_home).iterations


def test_a_cycle_whose_learner_is_killed_twice_at_one_place_is_given_up(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    armed = tmp_path / "failpoints"
    for _ in range(2):
        armed.write_text("learner.reward=kill\n")
        assert run_until_done_or_killed(home, armed) == -signal.SIGKILL
    run_until_done_or_killed(home)
    state = latest_cycle(home)
    assert state is not None
    assert (state.stage, state.outcome) == ("done", "failed")
    assert state.reasons == ["the learner died 2 times in stage 'reward', step 0"]


def test_a_crash_after_the_publication_event_does_not_publish_twice(
    finished_home: Path, before_publishing: Path, tmp_path: Path
) -> None:
    home = before_publishing
    armed = tmp_path / "failpoints"
    armed.write_text("learner.announced=kill\n")
    assert run_until_done_or_killed(home, armed) == -signal.SIGKILL
    run_until_done_or_killed(home)
    state = latest_cycle(home)
    assert state is not None
    assert (state.outcome, state.version) == ("published", 2)
    log = SqliteLog(home / "log.db")
    events = [PolicyEvent.FromString(record.value) for record in log.read("policies", {})]
    log.close()
    assert [e.published.version for e in events if e.HasField("published")] == [1, 2]
    assert weights(home) == weights(finished_home)


def test_a_crash_between_registry_and_publication_event_is_completed(
    finished_home: Path, before_publishing: Path, tmp_path: Path
) -> None:
    home = before_publishing
    armed = tmp_path / "failpoints"
    armed.write_text("learner.published=kill\n")
    assert run_until_done_or_killed(home, armed) == -signal.SIGKILL
    log = SqliteLog(home / "log.db")
    assert FolderRegistry(home / "registry").versions() == [1, 2]
    assert current_state(log).published == (1,)
    run_until_done_or_killed(home)
    assert current_state(log).published == (1, 2)
    assert FolderRegistry(home / "registry").versions() == [1, 2]
    log.close()


def test_a_cycle_killed_at_every_stage_gives_the_same_adapter(
    finished_adapter_home: Path, tmp_path: Path
) -> None:
    home = make_home(tmp_path / "home")
    run_with_kills(home, ["learner.judge", "learner.ppo.iteration", "learner.gate"], LORA)
    assert weights(home, 2, ADAPTER) == weights(finished_adapter_home, 2, ADAPTER)


@pytest.mark.parametrize("kind", [pytest.param("full", marks=pytest.mark.slow), "lora"])
def test_two_processes_train_the_same_policy_after_a_kill(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    name, single_process, file = {
        "full": ("finished_home", SETTINGS, "model.safetensors"),
        "lora": ("finished_adapter_home", LORA, ADAPTER),
    }[kind]
    home, finished = make_home(tmp_path / "home"), request.getfixturevalue(name)
    armed, two_processes = (
        tmp_path / "failpoints",
        single_process.model_copy(update={"processes": 2}),
    )
    armed.write_text("learner.ppo.iteration=kill\n")
    assert run_until_done_or_killed(home, armed, two_processes) == -signal.SIGKILL
    run_until_done_or_killed(home, settings=two_processes)
    found, whole = (load(weights(h, 2, file)) for h in (home, finished))
    assert found.keys() == whole.keys()
    for key, weight in whole.items():
        torch.testing.assert_close(found[key], weight, atol=1e-4, rtol=1e-3)
    figures, expected = (cycle_report(h).iterations for h in (home, finished))
    assert len(figures) == len(expected) == SETTINGS.ppo.iterations
    for ours, same in zip(figures, expected, strict=True):
        assert ours == pytest.approx(same, rel=1e-3, abs=1e-4)


def test_a_cycle_started_with_adapters_restarts_with_full_weights(
    finished_home: Path, tmp_path: Path
) -> None:
    home = make_home(tmp_path / "home")
    armed = tmp_path / "failpoints"
    armed.write_text("learner.ppo.iteration=kill\n")
    assert run_until_done_or_killed(home, armed, LORA) == -signal.SIGKILL
    run_until_done_or_killed(home)
    manifest = FolderRegistry(home / "registry").verify(2)
    assert (manifest.kind, manifest.adapter_base) == (CHECKPOINT_KIND_FULL, 0)
    assert weights(home) == weights(finished_home)


def forget(home: Path, *subjects: str) -> None:
    """Append forgetting requests to the log."""
    log = SqliteLog(home / "log.db")
    for subject in subjects:
        event = FeedbackEvent(
            event_id=f"forget-{subject}",
            owner="local",
            forgetting=Forgetting(subject=subject, until_ms=1000),
        )
        log.append("feedback", [feedback_record(event)])
    log.close()


@pytest.fixture(scope="module")
def home_without_rater(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home whose first cycle never saw the forgotten rater."""
    home = make_home(tmp_path_factory.mktemp("without"), raters=6)
    forget(home, "s1")
    run_until_done_or_killed(home)
    return home


@pytest.mark.parametrize("stage", ["learner.judge", "learner.gate", "learner.publish"])
def test_a_running_cycle_restarts_without_the_forgotten_rater(
    finished_home: Path, home_without_rater: Path, tmp_path: Path, stage: str
) -> None:
    """It ends with the weights of a cycle that never saw the rater."""
    home = make_home(tmp_path / "home", raters=6)
    armed = tmp_path / "failpoints"
    armed.write_text(f"{stage}=kill\n")
    assert run_until_done_or_killed(home, armed) == -signal.SIGKILL
    forget(home, "s1")
    run_until_done_or_killed(home)
    state = latest_cycle(home)
    assert state is not None
    assert (state.outcome, state.forgettings, state.events) == ("published", 1, 100)
    assert weights(home) == weights(home_without_rater)
    assert weights(home) != weights(finished_home)
    manifest = FolderRegistry(home / "registry").verify(2)
    assert (manifest.learned_from.to_seq, manifest.learned_from.forgettings) == (120, 1)
    published = FolderRegistry(home / "registry").path(2)
    found = read_report(published)
    assert found.data is not None
    assert (found.data.votes, found.data.raters) == ({"comparison": 100}, 5)
    assert [i["number"] for i in found.iterations] == [1, 2, 3]
    for folder in (published, home / "learner" / "cycles" / "001"):
        for file in folder.glob("report.*"):
            assert "say " not in file.read_text(), "all prompts begin with this word"
    log = SqliteLog(home / "log.db")
    assert len(log.read("completions", {})) == 100, "the learner erases the rater from the log too"
    log.close()
