"""Compiled layers train like uncompiled ones, and a resumed run ends with the same weights."""

import signal
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from learner.models.adapters import add_adapter
from learner.models.compiled import compile_layers
from learner.models.forward import answer_logits
from learner.models.parameters import copy_shared, trainable_parameters
from learner.models.precision import freeze
from learner.models.ranks import Ranks
from learner.ppo.critic import new_critic
from learner.ppo.losses import token_log_probs
from learner.ppo.rollouts import RolloutBatch
from learner.ppo.targets import TargetInputs, compute_targets
from learner.reward.model import RewardModel
from learner.settings import Dtype, LoraSettings
from tests.support.learner_cycles import (
    ADAPTER,
    LORA,
    cycle_report,
    run_until_done_or_killed,
    weights,
)
from tests.support.learning import make_home
from tests.support.tiny import TINY_PPO, rollout_batches, sample_answers, tiny_model

COMPILED = LORA.model_copy(update={"dtype": "bfloat16", "compiled": True})


def with_adapter(reference: PreTrainedModel, *, compiled: bool) -> PreTrainedModel:
    """Return a copy of the reference with a non-zero adapter."""
    model = add_adapter(copy_shared(reference), LoraSettings(rank=4, alpha=8), 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainable_parameters(model):
            parameter.normal_(0, 0.05, generator=generator)
    if compiled:
        compile_layers(model)
    return model


@pytest.fixture(scope="module")
def reference() -> PreTrainedModel:
    return freeze(tiny_model(), "bfloat16")


@pytest.fixture(scope="module")
def groups(reference: PreTrainedModel) -> list[RolloutBatch]:
    return rollout_batches(sample_answers(reference), micro_tokens=60)


def test_compiled_layers_have_the_outputs_and_gradients_of_uncompiled_ones(
    reference: PreTrainedModel, groups: list[RolloutBatch]
) -> None:
    """In bfloat16, compiled layers are about as close to float32 as uncompiled ones."""
    found = []
    plan: list[tuple[Dtype, bool]] = [("float32", False), ("bfloat16", False), ("bfloat16", True)]
    for dtype, compiled in plan:
        model = with_adapter(reference, compiled=compiled)
        if dtype == "float32":
            model.float()
        for group in groups:
            logits, _ = answer_logits(model, group.answers, dtype)
            token_log_probs(logits, group.answers.tokens_N, 1.0).sum().backward()  # type: ignore[no-untyped-call]
        gradient = torch.cat(
            [p.grad.flatten() for p in trainable_parameters(model) if p.grad is not None]
        )
        found.append((logits.detach().float(), gradient))
    exact, uncompiled, compiled_results = found
    for right, usual, ours in zip(exact, uncompiled, compiled_results, strict=True):
        assert not torch.equal(ours, usual), "nothing was compiled"
        assert (ours - right).norm() < 1.3 * (usual - right).norm() < 0.1 * right.norm()


def test_the_ratio_of_compiled_layers_is_exactly_one_on_the_first_step(
    reference: PreTrainedModel, groups: list[RolloutBatch]
) -> None:
    policy = with_adapter(reference, compiled=True)
    reward = RewardModel(with_adapter(reference, compiled=True), pad=0, seed=0, dtype="bfloat16")
    targets, _ = compute_targets(
        groups,
        TargetInputs(
            policy=policy,
            reference=reference,
            reward=reward,
            posteriors=None,
            critic=new_critic(policy, reward, TINY_PPO),
            settings=TINY_PPO,
            kl_coef=0.05,
            unfinished_penalty=2.0,
            dtype="bfloat16",
            fit_critic=True,
        ),
        Ranks(),
    )
    assert not any(t.old_log_probs_N.requires_grad or t.old_values_N.requires_grad for t in targets)
    for group, target in zip(groups, targets, strict=True):
        logits, _ = answer_logits(policy, group.answers, "bfloat16")
        found = token_log_probs(logits, group.answers.tokens_N, 1.0)
        assert found.requires_grad
        assert torch.equal(found, target.old_log_probs_N)


def test_a_copy_of_a_compiled_model_is_independent(
    reference: PreTrainedModel, groups: list[RolloutBatch]
) -> None:
    model = with_adapter(reference, compiled=True)
    before = answer_logits(model, groups[0].answers, "bfloat16")[0].detach()
    copy = copy_shared(model)
    with torch.no_grad():
        for parameter in trainable_parameters(copy):
            parameter.zero_()
    assert torch.equal(answer_logits(model, groups[0].answers, "bfloat16")[0], before)
    assert torch.equal(
        answer_logits(copy, groups[0].answers, "bfloat16")[0],
        answer_logits(reference, groups[0].answers, "bfloat16")[0],
    )


def test_without_a_compiler_layers_stay_uncompiled_with_a_warning(
    reference: PreTrainedModel,
    groups: list[RolloutBatch],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    model = with_adapter(reference, compiled=True)
    assert "no C++ compiler" in caplog.text
    plain = with_adapter(reference, compiled=False)
    ours, usual = (answer_logits(m, groups[0].answers, "bfloat16")[0] for m in (model, plain))
    assert torch.equal(ours, usual)


@pytest.mark.slow
def test_a_killed_run_with_compiled_layers_resumes_to_the_same_adapter(tmp_path: Path) -> None:
    whole, home = (make_home(tmp_path / name) for name in ("whole", "home"))
    run_until_done_or_killed(whole, settings=COMPILED)
    armed = tmp_path / "failpoints"
    armed.write_text("learner.ppo.iteration=sleep:0\nlearner.ppo.iteration=kill\n")
    assert run_until_done_or_killed(home, armed, COMPILED) == -signal.SIGKILL
    run_until_done_or_killed(home, settings=COMPILED)
    assert weights(home, 2, ADAPTER) == weights(whole, 2, ADAPTER)
    assert cycle_report(home).figures == cycle_report(whole).figures
