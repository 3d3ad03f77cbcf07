"""Whole learning cycles on a tiny model, from the ledger to the registry."""

import itertools
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from feedback.control.history import History
from feedback.control.policies import append_policy_event, current_state
from feedback.ledger.store import Ledger
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.identity import load_or_create_secret, prompt_split_key
from feedback.privacy.lineage import LogPosition
from feedback.registry import home_registry
from learner.cycle.inputs import load_inputs
from learner.cycle.reporting import report_prompts
from learner.cycle.service import run
from learner.cycle.state import latest_cycle
from learner.data.packing import IGNORED
from learner.data.preferences import prompt_key, prompt_split
from learner.errors import ModelUnusable
from learner.models.loading import load_model, load_tokenizer
from protos.plaudit.v1.checkpoint_pb2 import CHECKPOINT_KIND_FULL, CHECKPOINT_KIND_LORA
from protos.plaudit.v1.policy_pb2 import Activated, Hold, KeyMade, Leads, PolicyEvent, Published
from tests.support.learner_cycles import (
    ADAPTER,
    LORA,
    SETTINGS,
    add_votes,
    cycle_report,
    read_report,
    weights,
)
from tests.support.learning import cycle_ended, learn_until, make_home


def test_a_cycle_publishes_new_weights_with_a_manifest(finished_home: Path) -> None:
    state = latest_cycle(finished_home)
    assert state is not None
    assert (state.outcome, state.version, state.parent) == ("published", 2, 1)
    manifest = home_registry(finished_home).verify(2)
    assert (manifest.parent, manifest.base) == (1, "tiny")
    assert (manifest.learned_from.from_seq, manifest.learned_from.to_seq) == (0, 120)
    assert manifest.gate["reward_accuracy"] > 0.5
    assert manifest.gate["win_rate_over_first"] == manifest.gate["win_rate"], (
        "version 1 is the parent"
    )
    assert weights(finished_home) != weights(finished_home, 1)


def test_a_publication_names_its_votes_and_the_learner_reports_its_stages(
    finished_home: Path,
) -> None:
    log = SqliteLog(finished_home / "log.db")
    history = History(log)
    history.poll()
    publication, lineage = history.snapshot().publications[2], history.lineage
    votes = [LogPosition(r.partition, r.offset) for r in log.read("feedback", {})]
    records = log.read("policies", {})
    log.close()
    assert publication.votes == {"comparison": 120}
    assert [lineage.learned_in(position, None) for position in votes] == [2] * 120
    assert lineage.learned_in(LogPosition(0, votes[-1].offset + 1), None) is None
    events = [PolicyEvent.FromString(record.value) for record in records]
    stages = [(e.stage.stage, e.stage.cycle) for e in events if e.HasField("stage")]
    reported = [stage for stage, _ in itertools.groupby(stages)]
    assert reported[:6] == [
        ("waiting", 0),
        ("reward", 1),
        ("judge", 1),
        ("ppo", 1),
        ("gate", 1),
        ("publish", 1),
    ]


def test_a_published_version_contains_its_report(finished_home: Path) -> None:
    registry = home_registry(finished_home)
    manifest = registry.verify(2)
    names = {"report.json", "report.md", "report.svg"}
    assert names <= {file.path for file in manifest.files}
    found = read_report(registry.path(2))
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
    prompts = report_prompts(False, SETTINGS.seed, SETTINGS.reward)
    assert [sample.prompt for sample in found.samples] == prompts
    assert any(sample.before != sample.after for sample in found.samples)
    # The report does not disturb loading.
    load_tokenizer(registry.path(2))
    assert len(load_model(registry.path(2)).state_dict()) > 0
    ended = cycle_report(finished_home)
    changing = {"made", "seconds"}
    assert ended.model_dump(exclude=changing) == found.model_dump(exclude=changing)


def stages(log: SqliteLog) -> list[str]:
    """Return the stages that learners have reported."""
    events = [PolicyEvent.FromString(record.value) for record in log.read("policies", {})]
    return [event.stage.stage for event in events if event.HasField("stage")]


def waiting_reports(home: Path) -> list[tuple[int, str]]:
    """Return how many votes the waiting learner needed, with the reason, at each report."""
    log = SqliteLog(home / "log.db")
    events = [PolicyEvent.FromString(record.value) for record in log.read("policies", {})]
    log.close()
    return [(e.stage.votes_needed, e.stage.reason) for e in events if e.stage.stage == "waiting"]


EARLY = SETTINGS.model_copy(update={"min_events": 500, "early_share": 0.1})


def test_a_cycle_starts_early_once_the_votes_can_be_predicted(tmp_path: Path) -> None:
    home = make_home(tmp_path, 70)
    learn_until(home, EARLY, cycle_ended(home))
    state = latest_cycle(home)
    assert state is not None
    assert (state.upto_seq, state.events, state.outcome) == (70, 70, "published")
    assert waiting_reports(home)[0] == (50, "The learner looks at the new votes once there are 50.")


def test_a_learner_that_sees_no_pattern_waits_and_says_so(tmp_path: Path) -> None:
    home = make_home(tmp_path, 70, random_votes=True)
    learn_until(home, EARLY, lambda: len(waiting_reports(home)) > 1)
    needed, reason = waiting_reports(home)[1]
    assert 70 < needed <= 500
    assert reason.startswith("So far")
    assert latest_cycle(home) is None


def test_publishing_waits_for_the_end_of_a_hold(before_publishing: Path) -> None:
    log = SqliteLog(before_publishing / "log.db")
    append_policy_event(log, Hold(held=True, by="operator"))
    reported = stages(log).count("publish")
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(before_publishing, SETTINGS, stop))
    thread.start()
    try:
        while stages(log).count("publish") == reported:
            assert thread.is_alive()
            stop.wait(0.02)
        stop.wait(1)
        assert current_state(log).published == (1,)
        append_policy_event(log, Hold(held=False, by="operator"))
        while 2 not in current_state(log).published:
            assert thread.is_alive()
            stop.wait(0.02)
    finally:
        stop.set()
        thread.join()
        log.close()


def test_a_publication_under_a_lost_lease_does_not_count(
    before_publishing: Path, tmp_path: Path
) -> None:
    home = before_publishing
    log = SqliteLog(home / "log.db")
    armed = tmp_path / "failpoints"
    armed.write_text("learner.published=sleep:1.5\n")
    os.environ["PLAUDIT_FAILPOINTS"] = str(armed)
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(home, SETTINGS, stop))
    try:
        thread.start()
        while 2 not in home_registry(home).versions():
            stop.wait(0.02)
        append_policy_event(log, Leads(learner="another"))
        while not cycle_ended(home)():
            assert thread.is_alive()
            stop.wait(0.02)
    finally:
        del os.environ["PLAUDIT_FAILPOINTS"]
        stop.set()
        thread.join()
    state = latest_cycle(home)
    assert state is not None
    assert state.outcome == "overtaken"
    assert "another learner leads" in state.reasons[0]
    assert current_state(log).published == (1,)
    log.close()


def test_a_candidate_whose_parent_is_no_longer_live_is_dropped(
    finished_home: Path, before_publishing: Path
) -> None:
    home = before_publishing
    # An operator publishes another version meanwhile.
    home_registry(home).publish(
        finished_home / "registry" / "v000002", version=2, parent=1, base="tiny"
    )
    log = SqliteLog(home / "log.db")
    append_policy_event(log, Published(version=2, parent=1))
    append_policy_event(log, Activated(version=2, by="operator"))
    log.close()
    learn_until(home, SETTINGS, cycle_ended(home))
    state = latest_cycle(home)
    assert state is not None
    assert state.outcome == "overtaken"
    assert home_registry(home).versions() == [1, 2]


def test_a_refusal_is_logged_with_its_reasons(before_gate: Path) -> None:
    home = before_gate
    strict = SETTINGS.model_copy(
        update={"gate": SETTINGS.gate.model_copy(update={"min_win_rate": 1.0})}
    )
    learn_until(home, strict, cycle_ended(home))
    state = latest_cycle(home)
    assert state is not None
    assert state.outcome == "refused"
    assert "the judge predicts that people prefer" in state.reasons[0]
    assert home_registry(home).versions() == [1]
    found = cycle_report(home)
    assert (found.outcome, found.version, found.reasons) == ("refused", 0, tuple(state.reasons))
    assert found.figures == state.figures
    assert [c.name for c in found.criteria if not c.passed] == ["win_rate_lower_bound"]
    assert len(found.samples) == 6
    log = SqliteLog(home / "log.db")
    history = History(log)
    history.poll()
    log.close()
    (refusal,) = history.snapshot().refused
    assert refusal.reasons == tuple(state.reasons)


def test_no_ppo_while_votes_do_not_generalise(tmp_path: Path) -> None:
    home = make_home(tmp_path, random_votes=True)
    learn_until(home, SETTINGS, cycle_ended(home))
    state = latest_cycle(home)
    assert state is not None
    assert state.outcome == "reward_model_weak"
    assert "lower bound of -" in state.reasons[0]
    assert state.figures["probe_gain_lower_bound"] <= 0
    assert "ppo_kl" not in state.figures
    found = cycle_report(home)
    assert (found.outcome, found.iterations, found.criteria) == ("reward_model_weak", (), ())


def test_no_ppo_without_held_out_votes(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    settings = SETTINGS.model_copy(
        update={"reward": SETTINGS.reward.model_copy(update={"held_out_share": 1e-9})}
    )
    learn_until(home, settings, cycle_ended(home))
    state = latest_cycle(home)
    assert state is not None
    assert state.outcome == "too_few_votes"
    assert " 0 held-out examples" in state.reasons[0]


@pytest.mark.parametrize("trusted", [False, True])
def test_users_of_one_key_teach_nothing_unless_they_are_trusted(
    tmp_path: Path, *, trusted: bool
) -> None:
    home = make_home(tmp_path, raters=120, owner="app")
    log = SqliteLog(home / "log.db")
    made = KeyMade(id="key-1", role="user", digest=b"d", owner="app", trusted_users=trusted)
    append_policy_event(log, made)
    log.close()
    learn_until(home, SETTINGS, cycle_ended(home))
    state = latest_cycle(home)
    assert state is not None
    if trusted:
        assert (state.outcome, state.trusted_owners) == ("published", {"app"})
    else:
        assert state.outcome == "too_few_votes"
        assert "count for 6 votes (at least 8 are needed)" in state.reasons[0]


@pytest.mark.parametrize("keyed", [False, True])
def test_prompts_are_held_out_by_the_secret_unless_an_earlier_release_began(
    tmp_path: Path, *, keyed: bool
) -> None:
    home = make_home(tmp_path, votes=60, keyed_split=keyed)
    log, ledger = SqliteLog(home / "log.db"), Ledger(home / "ledger.db")
    while ledger.follow(log):
        pass
    upto = ledger.counts().max_seq
    inputs = load_inputs(home, SETTINGS, ledger, upto)
    secret = prompt_split_key(load_or_create_secret(home / "secret.json")) if keyed else b""
    shares = {"held_out_share": 0.15}
    expected = {
        tuple(prompt.token_ids)
        for prompt in ledger.prompts(60)
        if prompt_split(prompt_key(prompt.messages), secret=secret, **shares) == "held_out"
    }
    assert inputs.held_out_prompts
    assert {tuple(prompt) for prompt in inputs.held_out_prompts} <= expected
    assert not {tuple(prompt) for prompt in inputs.prompts} & expected
    again = load_inputs(home, SETTINGS, ledger, upto)
    assert again.held_out_prompts == inputs.held_out_prompts
    assert again.prompts == inputs.prompts
    # With another secret the split would move.
    (home / "secret.json").unlink()
    with pytest.raises(ModelUnusable, match=r"copy the installation's secret\.json"):
        load_inputs(home, SETTINGS, ledger, upto)
    ledger.close()
    log.close()


def test_held_out_prompts_are_not_trained_on(finished_home: Path) -> None:
    ledger = Ledger(finished_home / "ledger.db")
    inputs = load_inputs(finished_home, SETTINGS, ledger, ledger.counts().max_seq)
    ledger.close()
    trained_on, held_out = (
        {tuple(prompt) for prompt in prompts}
        for prompts in (inputs.prompts, inputs.held_out_prompts)
    )
    assert trained_on
    assert held_out
    assert not trained_on & held_out


def test_an_imported_model_is_anchored_to_plain_text_that_it_writes(
    finished_home: Path,
) -> None:
    """The text continues the prompts; it contains no chat answers, which PPO is to change."""
    ledger = Ledger(finished_home / "ledger.db")
    inputs = load_inputs(finished_home, SETTINGS, ledger, ledger.counts().max_seq)
    ledger.close()
    for rows in (inputs.text, inputs.held_out_text):
        assert len(rows) == 8
        for ids, labels in zip(rows.input_ids_NT, rows.labels_NT, strict=True):
            prefix = ids[labels == IGNORED].tolist()
            text = inputs.tokenizer.decode(prefix[: (labels != IGNORED).int().argmax()])
            assert text.startswith("say")
            assert "user" not in text
            written = (labels != IGNORED).nonzero().flatten()
            assert len(written) > 0
            assert torch.equal(labels[written], ids[written])
    assert inputs.base_text_nll > 0


def test_too_few_votes_start_no_cycle(tmp_path: Path) -> None:
    home = make_home(tmp_path, votes=39)
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(home, SETTINGS, stop))
    thread.start()
    ledger = Ledger(home / "ledger.db")
    while ledger.counts().max_seq < 39:
        stop.wait(0.02)
    stop.wait(0.3)
    ledger.close()
    assert latest_cycle(home) is None
    stop.set()
    thread.join()


def test_a_cycle_publishes_an_adapter_and_the_next_continues_from_it(
    finished_adapter_home: Path, tmp_path: Path
) -> None:
    home = shutil.copytree(finished_adapter_home, tmp_path / "home")
    registry = home_registry(home)
    manifest = registry.verify(2)
    assert (manifest.kind, manifest.adapter_base, manifest.parent) == (CHECKPOINT_KIND_LORA, 1, 1)
    assert manifest.gate["kl"] != 0
    add_votes(home, 120, 120)
    no_change = LORA.model_copy(
        update={"ppo": LORA.ppo.model_copy(update={"learning_rate": 1e-12, "text_coef": 0.0})}
    )
    learn_until(home, no_change, lambda: 3 in registry.versions() and cycle_ended(home)())
    manifest = registry.verify(3)
    assert (manifest.kind, manifest.adapter_base, manifest.parent) == (CHECKPOINT_KIND_LORA, 1, 2)
    assert 0 <= manifest.gate["win_rate_over_first"] <= 1
    before, after = (load(weights(home, version, ADAPTER)) for version in (2, 3))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=1e-6, rtol=0)


def test_full_training_continues_from_an_adapter_and_adapters_from_full_weights(
    finished_adapter_home: Path, tmp_path: Path
) -> None:
    home = shutil.copytree(finished_adapter_home, tmp_path / "home")
    registry = home_registry(home)

    def published(version: int) -> Callable[[], bool]:
        return lambda: version in registry.versions() and cycle_ended(home)()

    for version, settings, kind, base in (
        (3, SETTINGS, CHECKPOINT_KIND_FULL, 0),
        (4, LORA, CHECKPOINT_KIND_LORA, 3),
        (5, LORA, CHECKPOINT_KIND_LORA, 3),
    ):
        add_votes(home, 60 * version, 60)
        learn_until(home, settings, published(version))
        manifest = registry.verify(version)
        assert (manifest.kind, manifest.adapter_base) == (kind, base)
        assert manifest.parent == version - 1
