"""Whole cycles on a tiny model: through the ledger to the registry, killed and taken up again."""

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from feedback.ledger import Ledger
from feedback.log import NewRecord
from feedback.policies import current, publish_event
from feedback.records import feedback_record
from feedback.sqlite_log import SqliteLog
from learner.checkpoint import save_model
from learner.cycle_state import latest
from learner.materials import gather
from learner.model import load_tokenizer, new_model
from learner.service import run
from learner.settings import (
    GateSettings,
    LearnerSettings,
    LoraSettings,
    PPOSettings,
    PretrainSettings,
    RewardSettings,
)
from learner.tokenizer import encode_chat, end_token_ids, train_tokenizer
from protos.plaudit.v1.checkpoint_pb2 import CHECKPOINT_KIND_FULL, CHECKPOINT_KIND_LORA
from protos.plaudit.v1.completion_pb2 import Choice, CompletionRecord, Message
from protos.plaudit.v1.feedback_pb2 import Candidate, Comparison, FeedbackEvent, Forgetting
from protos.plaudit.v1.policy_pb2 import Activated, Hold, Leads, PolicyEvent, Published
from protos.registry import Registry

TINY = PretrainSettings(
    vocabulary=300, hidden=32, layers=1, heads=1, feed_forward=32, initial_deviation=0.3
)
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


def make_home(home: Path, votes: int = 120, people: int = 1) -> Path:
    """A home with version 1, and votes for the answers with the token 99 in them, by turns."""
    tokenizer = train_tokenizer(["a b c"], vocabulary=300, context=64)
    model = new_model(TINY, tokenizer).eval()
    save_model(model, tokenizer, home / "models" / "sft")
    Registry(home / "registry").publish(home / "models" / "sft", version=1, parent=0, base="tiny")
    log = SqliteLog(home / "log.db")
    publish_event(log, Published(version=1))
    log.close()
    vote(home, range(votes), people)
    return home


def vote(home: Path, numbers: range, people: int = 1) -> None:
    """Add votes to the log."""
    tokenizer = load_tokenizer(home / "models" / "sft")
    end = end_token_ids(tokenizer)[0]
    log = SqliteLog(home / "log.db")
    for number in numbers:
        chat = [{"role": "user", "content": f"say {number}"}]
        prompt = encode_chat(tokenizer, chat, answer=True)
        liked, other = [70 + number % 20, 99, end], [70 + number % 30, 98, end]
        left = number % 3 == 0
        pair = (liked, other) if left else (other, liked)
        record = CompletionRecord(
            completion_id=f"c{number}",
            owner="local",
            subject=f"s{number % people}",
            messages=[Message(**m) for m in chat],
            prompt_token_ids=prompt,
            choices=[Choice(index=i, token_ids=ids) for i, ids in enumerate(pair)],
        )
        event = FeedbackEvent(
            event_id=f"e{number}",
            completion_id=f"c{number}",
            owner="local",
            subject=f"s{number % people}",
            target=f"comparison c{number}",
            comparison=Comparison(
                left=Candidate(completion_id=f"c{number}", choice=0),
                right=Candidate(completion_id=f"c{number}", choice=1),
                verdict=Comparison.VERDICT_LEFT if left else Comparison.VERDICT_RIGHT,
            ),
        )
        for topic, key, message in (
            ("completions", f"c{number}", record),
            ("feedback", f"e{number}", event),
        ):
            name = message.DESCRIPTOR.full_name
            log.append(topic, [NewRecord(key, name, message.SerializeToString())])  # type: ignore[arg-type]
    log.close()


def learn_until(home: Path, settings: LearnerSettings, done) -> None:  # type: ignore[no-untyped-def]
    """Run the service in a thread until `done()`, then stop it."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            run(home, settings, stop)
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=serve)
    thread.start()
    for _ in range(3000):
        if done() or not thread.is_alive():
            break
        stop.wait(0.02)
    reached = done()
    stop.set()
    thread.join()
    assert not failures
    assert reached


def cycle_ended(home: Path):  # type: ignore[no-untyped-def]
    def ended() -> bool:
        state = latest(home)
        return state is not None and state.stage == "done"

    return ended


def weights(home: Path, version: int = 2, file: str = "model.safetensors") -> bytes:
    registry = Registry(home / "registry")
    registry.verify(version)
    return (registry.path(version) / file).read_bytes()


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
    for _ in range(3000):
        process.join(0.02)
        if process.exitcode is not None or cycle_ended(home)():
            break
    process.kill()
    process.join()
    return process.exitcode


def test_a_cycle_publishes_what_it_learned(learned: Path) -> None:
    state = latest(learned)
    assert state is not None
    assert (state.outcome, state.version, state.parent) == ("published", 2, 1)
    manifest = Registry(learned / "registry").verify(2)
    assert (manifest.parent, manifest.base) == (1, "tiny")
    assert (manifest.learned_from.from_seq, manifest.learned_from.to_seq) == (0, 120)
    assert manifest.gate["reward_accuracy"] > 0.5
    assert weights(learned) != weights(learned, 1)


@pytest.mark.parametrize(
    "failpoint",
    ["learner.reward", "learner.judge", "learner.ppo.iteration", "learner.gate", "learner.publish"],
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
    log = SqliteLog(home / "log.db")
    last = log.read("policies", {})[-1]
    log.close()
    assert b"the judge prefers" in last.value


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
    vote(home, range(120, 240))
    still = LORA.model_copy(
        update={"ppo": LORA.ppo.model_copy(update={"learning_rate": 1e-12, "text_coef": 0.0})}
    )
    learn_until(home, still, lambda: 3 in registry.versions() and cycle_ended(home)())
    manifest = registry.verify(3)
    assert (manifest.kind, manifest.adapter_base, manifest.parent) == (CHECKPOINT_KIND_LORA, 1, 2)
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
        vote(home, range(60 * version, 60 * version + 60))
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
    log = SqliteLog(home / "log.db")
    assert len(log.read("completions", {})) == 100, "the learner has erased them from the log too"
    log.close()
