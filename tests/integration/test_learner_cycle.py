"""Whole cycles on a tiny model: through the ledger to the registry, killed and taken up again."""

import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest
import torch
from safetensors.torch import load

from feedback.history import History
from feedback.ledger import Ledger
from feedback.lineage import Place
from feedback.policies import current, publish_event
from feedback.records import feedback_record
from feedback.sqlite_log import SqliteLog
from learner.cycle_state import latest
from learner.materials import gather
from learner.model import load_model, load_tokenizer
from learner.packing import IGNORED
from learner.report import Notes, Report
from learner.reporting import prompts_to_show
from learner.service import run
from learner.settings import (
    DuelSettings,
    GateSettings,
    LearnerSettings,
    LoraSettings,
    PPOSettings,
    RewardSettings,
)
from protos.plaudit.v1.checkpoint_pb2 import CHECKPOINT_KIND_FULL, CHECKPOINT_KIND_LORA
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent, Forgetting
from protos.plaudit.v1.policy_pb2 import Activated, Hold, Leads, PolicyEvent, Published
from protos.registry import Registry
from tests.learning import cast_votes, cycle_ended, learn_until, make_home

SETTINGS = LearnerSettings(
    metrics_port=0,
    threads=1,
    min_events=40,
    settle_seconds=0.0,
    poll_seconds=0.02,
    reward=RewardSettings(
        learning_rate=3e-3, epochs=12, patience=12, batch=8, normalise_on=16, min_train=8
    ),
    ppo=PPOSettings(
        iterations=3,
        rollouts=8,
        max_tokens=6,
        text_rows=2,
        text_row=16,
        checkpoint_every=1,
        micro_tokens=200,
    ),
    gate=GateSettings(
        prompts=8,
        min_win_rate=0.0,
        max_kl=1e6,
        max_text_nll_increase=1e6,
        max_unended_increase=1.0,
    ),
)
LORA = SETTINGS.model_copy(
    update={
        "tune": "lora",
        "lora": LoraSettings(rank=8, alpha=8),
        "reward": SETTINGS.reward.model_copy(update={"learning_rate": 5e-3}),
        "duel": DuelSettings(trials=False),
    }
)
ADAPTER = "adapter_model.safetensors"
# A learner to kill must be a process; forked from a server that has imported it already.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["learner.service"])


def learn_in_process(home: Path, failpoints: Path | None, settings: LearnerSettings) -> None:
    """Run the service for ever, in the process that is to be killed."""
    if failpoints:
        os.environ["PLAUDIT_FAILPOINTS"] = str(failpoints)
    run(home, settings, threading.Event())


def vote(home: Path, first: int, votes: int) -> None:
    """Add votes to the log."""
    log = SqliteLog(home / "log.db")
    cast_votes(log, load_tokenizer(home / "models" / "sft"), votes, first=first)
    log.close()


def weights(home: Path, version: int = 2, file: str = "model.safetensors") -> bytes:
    registry = Registry(home / "registry")
    registry.verify(version)
    return (registry.path(version) / file).read_bytes()


def report(folder: Path) -> Report:
    assert ElementTree.parse(folder / "report.svg").getroot().tag.endswith("svg")
    assert (folder / "report.md").read_text().startswith("# ")
    return Report.model_validate_json((folder / "report.json").read_bytes())


def report_of_cycle(home: Path) -> Report:
    return report(home / "learner" / "cycles" / "001")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose first cycle was done without interruption."""
    home = make_home(tmp_path_factory.mktemp("learned"))
    killed_or_done(home)
    return home


def killed_or_done(
    home: Path, failpoints: Path | None = None, settings: LearnerSettings = SETTINGS
) -> int | None:
    """Run the service in a process until its cycle has ended, or it died; give its exit code."""
    process = FORKS.Process(target=learn_in_process, args=(home, failpoints, settings))
    process.start()
    ended, late = cycle_ended(home), time.monotonic() + 400
    while process.is_alive() and not ended() and time.monotonic() < late:
        process.join(0.02)
    alive = process.is_alive()
    process.kill()
    process.join()
    assert not alive or ended(), "the cycle has not come to its end"
    return process.exitcode


def test_a_cycle_publishes_what_it_learned(learned: Path) -> None:
    state = latest(learned)
    assert state is not None
    assert (state.outcome, state.version, state.parent) == ("published", 2, 1)
    manifest = Registry(learned / "registry").verify(2)
    assert (manifest.parent, manifest.base) == (1, "tiny")
    assert (manifest.learned_from.from_seq, manifest.learned_from.to_seq) == (0, 120)
    assert manifest.gate["reward_accuracy"] > 0.5
    assert manifest.gate["win_rate_over_first"] == manifest.gate["win_rate"], "1 is the parent"
    assert weights(learned) != weights(learned, 1)


def test_a_published_version_names_its_votes_and_the_learner_where_it_is(learned: Path) -> None:
    log = SqliteLog(learned / "log.db")
    history = History(log)
    history.poll()
    publication, lineage = history.told().publications[2], history.lineage
    votes = [Place(r.partition, r.offset) for r in log.read("feedback", {})]
    records = log.read("policies", {})
    log.close()
    assert publication.votes == {"comparison": 120}
    assert [lineage.learned_in(place, None) for place in votes] == [2] * 120
    assert lineage.learned_in(Place(0, votes[-1].offset + 1), None) is None
    events = [PolicyEvent.FromString(record.value) for record in records]
    stages = [(e.stage.stage, e.stage.cycle) for e in events if e.HasField("stage")]
    begun = [stage for stage, _ in itertools.groupby(stages)]
    assert begun[:6] == [
        ("waiting", 0),
        ("reward", 1),
        ("judge", 1),
        ("ppo", 1),
        ("gate", 1),
        ("publish", 1),
    ]


def test_a_published_version_carries_its_report(learned: Path) -> None:
    registry = Registry(learned / "registry")
    manifest = registry.verify(2)
    names = {"report.json", "report.md", "report.svg"}
    assert names <= {file.path for file in manifest.files}
    found = report(registry.path(2))
    assert found.figures == dict(manifest.gate)
    assert (found.outcome, found.version, found.parent, found.base) == ("published", 2, 1, "tiny")
    assert found.data is not None
    assert (found.data.votes, found.data.raters) == ({"comparison": 120}, 1)
    assert sum(found.data.opinions.values()) == 120
    assert found.data.opinions["reward"] == found.figures["reward_trained_on"]
    assert [i["number"] for i in found.iterations] == [1, 2, 3]
    for name, figure in found.iterations[-1].items():
        assert figure == found.figures[f"ppo_{name}"]
    assert all(criterion.passed for criterion in found.criteria)
    prompts = prompts_to_show(False, SETTINGS.seed, SETTINGS.reward)
    assert [sample.prompt for sample in found.samples] == prompts
    assert any(sample.before != sample.after for sample in found.samples)
    # Beside the weights, and in nobody's way.
    load_tokenizer(registry.path(2))
    assert len(load_model(registry.path(2)).state_dict()) > 0
    ended = report_of_cycle(learned)
    late = {"made", "seconds"}
    assert ended.model_dump(exclude=late) == found.model_dump(exclude=late)


def test_a_cycle_can_sample_with_vllm_and_leaves_nothing_running(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    environment, children = dict(os.environ), psutil.Process().children(recursive=True)
    learn_until(home, SETTINGS.model_copy(update={"sampler": "vllm"}), cycle_ended(home))
    state = latest(home)
    assert state is not None
    assert (state.outcome, state.version) == ("published", 2)
    assert weights(home) != weights(home, 1)
    # The engine is gone: another can be started, and the process is as it was.
    assert "vllm" in sys.modules
    assert not torch.distributed.is_initialized()
    assert psutil.Process().children(recursive=True) == children
    new = os.environ.keys() - environment.keys()
    assert not [name for name in new if name.startswith(("VLLM", "LD_", "OMP"))]


@pytest.mark.parametrize(
    "failpoint",
    [
        "learner.reward",
        "learner.judge",
        "learner.ppo.iteration",
        "learner.ppo.trained",
        "learner.gate",
        "learner.publish",
    ],
)
def test_killed_and_resumed_cycle_gives_the_same_weights(
    learned: Path, tmp_path: Path, failpoint: str
) -> None:
    home = make_home(tmp_path / "home")
    armed = tmp_path / "failpoints"
    armed.write_text(f"{failpoint}=kill\n")
    assert killed_or_done(home, armed) == -signal.SIGKILL
    assert armed.read_text() == ""
    assert 2 not in Registry(home / "registry").versions()
    killed_or_done(home)
    assert weights(home) == weights(learned)
    found, whole = report_of_cycle(home), report_of_cycle(learned)
    assert (found.data, found.iterations) == (whole.data, whole.iterations)
    assert (found.samples, found.figures) == (whole.samples, whole.figures)


def test_ppo_killed_between_two_checkpoints_reports_every_iteration_once(
    learned: Path, tmp_path: Path
) -> None:
    home = make_home(tmp_path / "home")
    armed = tmp_path / "failpoints"
    armed.write_text("learner.ppo.iteration=sleep:0\nlearner.ppo.iteration=kill\n")
    assert killed_or_done(home, armed) == -signal.SIGKILL
    notes = home / "learner" / "cycles" / "001" / "notes.json"
    noted = Notes.model_validate_json(notes.read_bytes()).iterations
    assert [i["number"] for i in noted] == [1, 2], "the second was noted, but is not saved"
    killed_or_done(home)
    assert report_of_cycle(home).iterations == report_of_cycle(learned).iterations


def test_crash_after_the_event_publishes_nothing_twice(learned: Path, tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    armed = tmp_path / "failpoints"
    armed.write_text("learner.announced=kill\n")
    assert killed_or_done(home, armed) == -signal.SIGKILL
    killed_or_done(home)
    state = latest(home)
    assert state is not None
    assert (state.outcome, state.version) == ("published", 2)
    log = SqliteLog(home / "log.db")
    events = [PolicyEvent.FromString(record.value) for record in log.read("policies", {})]
    log.close()
    assert [e.published.version for e in events if e.HasField("published")] == [1, 2]
    assert weights(home) == weights(learned)


def test_crash_between_registry_and_event_is_repaired(learned: Path, tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    armed = tmp_path / "failpoints"
    armed.write_text("learner.published=kill\n")
    assert killed_or_done(home, armed) == -signal.SIGKILL
    log = SqliteLog(home / "log.db")
    assert Registry(home / "registry").versions() == [1, 2]
    assert current(log).published == (1,)
    killed_or_done(home)
    assert current(log).published == (1, 2)
    assert Registry(home / "registry").versions() == [1, 2]
    log.close()


def test_while_held_nothing_is_published_and_then_it_is(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    log = SqliteLog(home / "log.db")

    def hold_before_publishing() -> bool:
        state = latest(home)
        return state is not None and state.stage == "publish"

    stop = threading.Event()
    publish_event(log, Hold(held=False))
    armed = tmp_path / "failpoints"
    armed.write_text("learner.publish=sleep:1.0\n")
    os.environ["PLAUDIT_FAILPOINTS"] = str(armed)
    try:
        thread = threading.Thread(target=run, args=(home, SETTINGS, stop))
        thread.start()
        while not hold_before_publishing():
            stop.wait(0.02)
        publish_event(log, Hold(held=True, by="operator"))
        stop.wait(1.5)
        assert current(log).published == (1,)
        publish_event(log, Hold(held=False, by="operator"))
        while 2 not in current(log).published:
            assert thread.is_alive()
            stop.wait(0.02)
    finally:
        del os.environ["PLAUDIT_FAILPOINTS"]
        stop.set()
        thread.join()
        log.close()


def test_what_is_published_under_a_lost_lease_does_not_count(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    log = SqliteLog(home / "log.db")
    armed = tmp_path / "failpoints"
    armed.write_text("learner.published=sleep:1.5\n")
    os.environ["PLAUDIT_FAILPOINTS"] = str(armed)
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(home, SETTINGS, stop))
    try:
        thread.start()
        while 2 not in Registry(home / "registry").versions():
            stop.wait(0.02)
        publish_event(log, Leads(learner="another"))
        while not cycle_ended(home)():
            assert thread.is_alive()
            stop.wait(0.02)
    finally:
        del os.environ["PLAUDIT_FAILPOINTS"]
        stop.set()
        thread.join()
    state = latest(home)
    assert state is not None
    assert state.outcome == "overtaken"
    assert "another learner leads" in state.reasons[0]
    assert current(log).published == (1,)
    log.close()


def test_a_candidate_whose_parent_was_left_behind_is_dropped(learned: Path, tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    armed = tmp_path / "failpoints"
    armed.write_text("learner.publish=kill\n")
    killed_or_done(home, armed)
    # Meanwhile an operator brings in another version.
    Registry(home / "registry").publish(
        learned / "registry" / "v000002", version=2, parent=1, base="tiny"
    )
    log = SqliteLog(home / "log.db")
    publish_event(log, Published(version=2, parent=1))
    publish_event(log, Activated(version=2, by="operator"))
    log.close()
    learn_until(home, SETTINGS, cycle_ended(home))
    state = latest(home)
    assert state is not None
    assert state.outcome == "overtaken"
    assert Registry(home / "registry").versions() == [1, 2]


def test_a_refused_candidate_is_an_event_with_reasons(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    strict = SETTINGS.model_copy(
        update={"gate": SETTINGS.gate.model_copy(update={"min_win_rate": 1.0})}
    )
    learn_until(home, strict, cycle_ended(home))
    state = latest(home)
    assert state is not None
    assert state.outcome == "refused"
    assert "the judge prefers" in state.reasons[0]
    assert Registry(home / "registry").versions() == [1]
    found = report_of_cycle(home)
    assert (found.outcome, found.version, found.reasons) == ("refused", 0, tuple(state.reasons))
    assert found.figures == state.figures
    assert [c.name for c in found.criteria if not c.passed] == ["win_rate_lower_bound"]
    assert len(found.samples) == 6
    log = SqliteLog(home / "log.db")
    history = History(log)
    history.poll()
    log.close()
    (refusal,) = history.told().refused
    assert refusal.reasons == tuple(state.reasons)


def test_no_ppo_while_the_reward_model_may_be_guessing(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    settings = SETTINGS.model_copy(
        update={"reward": SETTINGS.reward.model_copy(update={"held_out_share": 0.01})}
    )
    learn_until(home, settings, cycle_ended(home))
    state = latest(home)
    assert state is not None
    assert state.outcome == "reward_model_weak"
    assert "at least" in state.reasons[0]
    assert "ppo_kl" not in state.figures
    found = report_of_cycle(home)
    assert (found.outcome, found.iterations, found.criteria) == ("reward_model_weak", (), ())


def test_held_out_prompts_are_never_learned_on(learned: Path) -> None:
    ledger = Ledger(learned / "ledger.db")
    materials = gather(learned, SETTINGS, ledger, ledger.counts().max_seq)
    ledger.close()
    learned_on, held_out = (
        {tuple(prompt) for prompt in prompts}
        for prompts in (materials.prompts, materials.held_out_prompts)
    )
    assert learned_on
    assert held_out
    assert not learned_on & held_out


def test_a_model_made_elsewhere_is_kept_near_the_plain_text_that_it_writes(learned: Path) -> None:
    """Text that begins as people's questions do; not chat answers, which are to change."""
    ledger = Ledger(learned / "ledger.db")
    materials = gather(learned, SETTINGS, ledger, ledger.counts().max_seq)
    ledger.close()
    for rows in (materials.text, materials.held_out_text):
        assert len(rows) == 8
        for ids, labels in zip(rows.input_ids_NT, rows.labels_NT, strict=True):
            beginning = ids[labels == IGNORED].tolist()
            text = materials.tokenizer.decode(beginning[: (labels != IGNORED).int().argmax()])
            assert text.startswith("say")
            assert "user" not in text
            written = (labels != IGNORED).nonzero().flatten()
            assert len(written) > 0
            assert torch.equal(labels[written], ids[written])
    assert materials.base_text_nll > 0


def test_fewer_votes_than_asked_for_start_nothing(tmp_path: Path) -> None:
    home = make_home(tmp_path, votes=39)
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(home, SETTINGS, stop))
    thread.start()
    ledger = Ledger(home / "ledger.db")
    while ledger.counts().max_seq < 39:
        stop.wait(0.02)
    stop.wait(0.3)
    ledger.close()
    assert latest(home) is None
    stop.set()
    thread.join()


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose first cycle trained adapters, without interruption."""
    home = make_home(tmp_path_factory.mktemp("adapted"))
    killed_or_done(home, settings=LORA)
    return home


def test_a_cycle_publishes_an_adapter_and_the_next_goes_on_from_it(
    adapted: Path, tmp_path: Path
) -> None:
    home = shutil.copytree(adapted, tmp_path / "home")
    registry = Registry(home / "registry")
    manifest = registry.verify(2)
    assert (manifest.kind, manifest.adapter_base, manifest.parent) == (CHECKPOINT_KIND_LORA, 1, 1)
    assert manifest.gate["kl"] != 0
    vote(home, 120, 120)
    still = LORA.model_copy(
        update={"ppo": LORA.ppo.model_copy(update={"learning_rate": 1e-12, "text_coef": 0.0})}
    )
    learn_until(home, still, lambda: 3 in registry.versions() and cycle_ended(home)())
    manifest = registry.verify(3)
    assert (manifest.kind, manifest.adapter_base, manifest.parent) == (CHECKPOINT_KIND_LORA, 1, 2)
    assert 0 <= manifest.gate["win_rate_over_first"] <= 1
    before, after = (load(weights(home, version, ADAPTER)) for version in (2, 3))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=1e-6, rtol=0)


@pytest.mark.parametrize("failpoint", ["learner.judge", "learner.ppo.iteration", "learner.gate"])
def test_killed_and_resumed_cycle_gives_the_same_adapter(
    adapted: Path, tmp_path: Path, failpoint: str
) -> None:
    home = make_home(tmp_path / "home")
    armed = tmp_path / "failpoints"
    armed.write_text(f"{failpoint}=kill\n")
    assert killed_or_done(home, armed, LORA) == -signal.SIGKILL
    killed_or_done(home, settings=LORA)
    assert weights(home, 2, ADAPTER) == weights(adapted, 2, ADAPTER)


@pytest.mark.parametrize("kind", [pytest.param("full", marks=pytest.mark.slow), "lora"])
def test_two_processes_train_the_same_policy_also_after_a_kill(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    name, own, file = {
        "full": ("learned", SETTINGS, "model.safetensors"),
        "lora": ("adapted", LORA, ADAPTER),
    }[kind]
    home, one = make_home(tmp_path / "home"), request.getfixturevalue(name)
    armed, two = tmp_path / "failpoints", own.model_copy(update={"processes": 2})
    armed.write_text("learner.ppo.iteration=kill\n")
    assert killed_or_done(home, armed, two) == -signal.SIGKILL
    killed_or_done(home, settings=two)
    found, whole = (load(weights(h, 2, file)) for h in (home, one))
    assert found.keys() == whole.keys()
    for key, weight in whole.items():
        torch.testing.assert_close(found[key], weight, atol=1e-4, rtol=1e-3)
    figures, theirs = (report_of_cycle(h).iterations for h in (home, one))
    assert len(figures) == len(theirs) == SETTINGS.ppo.iterations
    for ours, same in zip(figures, theirs, strict=True):
        assert ours == pytest.approx(same, rel=1e-3, abs=1e-4)


def test_a_cycle_begun_with_adapters_starts_afresh_with_all_weights(
    learned: Path, tmp_path: Path
) -> None:
    home = make_home(tmp_path / "home")
    armed = tmp_path / "failpoints"
    armed.write_text("learner.ppo.iteration=kill\n")
    assert killed_or_done(home, armed, LORA) == -signal.SIGKILL
    killed_or_done(home)
    manifest = Registry(home / "registry").verify(2)
    assert (manifest.kind, manifest.adapter_base) == (CHECKPOINT_KIND_FULL, 0)
    assert weights(home) == weights(learned)


def test_all_weights_are_trained_on_from_an_adapter_and_adapters_from_them(
    adapted: Path, tmp_path: Path
) -> None:
    home = shutil.copytree(adapted, tmp_path / "home")
    registry = Registry(home / "registry")

    def published(version: int) -> Callable[[], bool]:
        return lambda: version in registry.versions() and cycle_ended(home)()

    for version, settings, kind, base in (
        (3, SETTINGS, CHECKPOINT_KIND_FULL, 0),
        (4, LORA, CHECKPOINT_KIND_LORA, 3),
        (5, LORA, CHECKPOINT_KIND_LORA, 3),
    ):
        vote(home, 60 * version, 60)
        learn_until(home, settings, published(version))
        manifest = registry.verify(version)
        assert (manifest.kind, manifest.adapter_base) == (kind, base)
        assert manifest.parent == version - 1


def forget(home: Path, *subjects: str) -> None:
    log = SqliteLog(home / "log.db")
    for subject in subjects:
        event = FeedbackEvent(
            event_id=f"forget-{subject}",
            owner="local",
            forgetting=Forgetting(subject=subject, until_ms=1000),
        )
        log.append("feedback", [feedback_record(event)])
    log.close()


@pytest.mark.parametrize("stage", ["learner.judge", "learner.gate", "learner.publish"])
def test_a_cycle_under_way_starts_afresh_without_who_was_forgotten(
    learned: Path, tmp_path: Path, stage: str
) -> None:
    """It ends with the weights of a cycle that never knew of them."""
    without, home = (make_home(tmp_path / name, people=6) for name in ("without", "home"))
    forget(without, "s1")
    killed_or_done(without)
    armed = tmp_path / "failpoints"
    armed.write_text(f"{stage}=kill\n")
    assert killed_or_done(home, armed) == -signal.SIGKILL
    forget(home, "s1")
    killed_or_done(home)
    state = latest(home)
    assert state is not None
    assert (state.outcome, state.forgettings, state.events) == ("published", 1, 100)
    assert weights(home) == weights(without)
    assert weights(home) != weights(learned)
    manifest = Registry(home / "registry").verify(2)
    assert (manifest.learned_from.to_seq, manifest.learned_from.forgettings) == (120, 1)
    published = Registry(home / "registry").path(2)
    found = report(published)
    assert found.data is not None
    assert (found.data.votes, found.data.raters) == ({"comparison": 100}, 5)
    assert [i["number"] for i in found.iterations] == [1, 2, 3]
    for folder in (published, home / "learner" / "cycles" / "001"):
        for file in folder.glob("report.*"):
            assert "say " not in file.read_text(), "every prompt that was asked begins so"
    log = SqliteLog(home / "log.db")
    assert len(log.read("completions", {})) == 100, "the learner has erased them from the log too"
    log.close()
