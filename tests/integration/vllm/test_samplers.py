"""Contract tests of samplers: the same tests for transformers and for vLLM in this process."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import PreTrainedModel

from learner.data.answers import split_prompt
from learner.data.packing import Rows
from learner.data.tokenizer import train_tokenizer
from learner.models.forward import answer_logits
from learner.models.loading import new_model
from learner.models.parameters import copy_shared
from learner.ppo.critic import new_critic
from learner.ppo.losses import importance_weights, token_log_probs
from learner.ppo.steps import PPOInputs
from learner.ppo.trainer import Iteration, run_ppo
from learner.reward.model import RewardModel
from learner.sampling.sampler import Sample, Sampler, TransformersSampler
from learner.sampling.vllm_sampler import VllmEngine, VllmSampler
from learner.settings import PPOSettings, PretrainSettings
from tests.support.learning import answer_log_probs
from tests.support.tiny import rollout_batches

SamplerFactory = Callable[[PreTrainedModel, list[int]], Sampler]

END = 5
TINY = PretrainSettings(
    vocabulary=300, hidden=64, layers=2, heads=2, feed_forward=96, initial_deviation=0.3
)
# The last prompt is longer than a block of vLLM's cache, so that its answers share one.
PROMPTS = [[2, 50, 3], [2, 51, 52, 53, 3], [2, *range(60, 110), 3]]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return new_model(TINY, train_tokenizer(["a b"], vocabulary=300, context=64)).eval()


@pytest.fixture(scope="module")
def engine(model: PreTrainedModel) -> Iterator[VllmEngine]:
    engine = VllmEngine(model, max_tokens=128, batch=16)
    yield engine
    engine.close()


@pytest.fixture(params=["transformers", "vllm"])
def make_sampler(request: pytest.FixtureRequest) -> SamplerFactory:
    if request.param == "transformers":
        return lambda model, ends: TransformersSampler(model, ends, batch=5)
    engine = request.getfixturevalue("engine")
    return lambda model, ends: VllmSampler(model, ends, engine)


def perturbed(model: PreTrainedModel, seed: int = 1) -> PreTrainedModel:
    """Return a copy whose weights all differ: embeddings, projections and norms."""
    other = copy_shared(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.3 * parameter.std() * noise + 0.05 * noise)
    return other


def worst_error(samples: list[Sample], model: PreTrainedModel, temperature: float = 1.0) -> float:
    """Return the largest difference from the log-probabilities that transformers computes."""
    worst = 0.0
    for sample in samples:
        found = answer_log_probs(model, sample.prompt, sample.token_ids, temperature)
        worst = max(worst, (found - torch.tensor(sample.log_probs)).abs().max().item())
    return worst


def answers(samples: list[Sample]) -> list[tuple[int, ...]]:
    return [s.token_ids for s in samples]


def test_samples_carry_the_log_probabilities_of_the_model(
    make_sampler: SamplerFactory, model: PreTrainedModel
) -> None:
    for temperature in (1.0, 0.7):
        found = make_sampler(model, [END]).sample(PROMPTS, 4, 8, temperature, seed=2)
        assert worst_error(found, model, temperature) < 1e-4
    # A control: log-probabilities differ at another temperature.
    assert worst_error(found, model, 1.0) > 0.1


def test_samples_end_only_at_an_end_token(
    make_sampler: SamplerFactory, model: PreTrainedModel
) -> None:
    ends = list(range(100, 140))
    found = make_sampler(model, ends).sample(PROMPTS, 20, 8, 1.0, seed=0)
    assert any(s.finished for s in found)
    assert any(not s.finished for s in found)
    for sample in found:
        assert len(sample.log_probs) == len(sample.token_ids)
        assert all(t not in ends for t in sample.token_ids[:-1])
        assert sample.finished == (sample.token_ids[-1] in ends)
        assert sample.finished or len(sample.token_ids) == 8


def test_token_frequencies_match_their_probabilities(
    make_sampler: SamplerFactory, model: PreTrainedModel
) -> None:
    count = 600
    found = make_sampler(model, [END]).sample(PROMPTS[:1], count, 1, 1.0, seed=3)
    with torch.no_grad():
        probs_V = model(input_ids=torch.tensor(PROMPTS[:1])).logits[0, -1].softmax(-1)
    drawn = torch.tensor([s.token_ids[0] for s in found])
    seen_V = torch.bincount(drawn, minlength=len(probs_V)) / count
    top_K = probs_V.topk(5).indices
    # Within five standard errors of a proportion of `count` draws.
    errors_K = (seen_V - probs_V)[top_K].abs()
    assert (errors_K < 5 * (probs_V[top_K] * (1 - probs_V[top_K]) / count).sqrt()).all()


def test_the_same_seed_gives_the_same_answers_in_the_order_of_the_prompts(
    make_sampler: SamplerFactory, model: PreTrainedModel
) -> None:
    first = make_sampler(model, [END]).sample(PROMPTS, 4, 8, 1.0, seed=1)
    make_sampler(perturbed(model), [END]).sample(PROMPTS, 2, 8, 1.0, seed=5)  # must not interfere
    assert first == make_sampler(model, [END]).sample(PROMPTS, 4, 8, 1.0, seed=1)
    assert [list(s.prompt) for s in first] == [p for p in PROMPTS for _ in range(4)]
    assert answers(first) != answers(make_sampler(model, [END]).sample(PROMPTS, 4, 8, 1.0, seed=2))
    assert len(set(answers(first)[:4])) > 1, "answers to one prompt differ"


def test_sampling_leaves_the_global_random_state_and_threads_alone(
    make_sampler: SamplerFactory, model: PreTrainedModel
) -> None:
    sampler = make_sampler(model, [END])
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    sampler.sample(PROMPTS, 2, 8, 1.0, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.set_num_threads(threads + 1)
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)


def test_a_sampler_follows_the_weights_of_its_model(
    make_sampler: SamplerFactory, model: PreTrainedModel
) -> None:
    policy = copy_shared(model)
    sampler = make_sampler(policy, [END])
    before = sampler.sample(PROMPTS, 4, 8, 1.0, seed=1)
    with torch.no_grad():
        for parameter, other in zip(
            policy.parameters(), perturbed(model).parameters(), strict=True
        ):
            parameter.copy_(other)
    after = sampler.sample(PROMPTS, 4, 8, 1.0, seed=1)
    assert worst_error(after, policy) < 1e-4, "weights or cached prefixes are stale"
    assert worst_error(after, model) > 0.1
    assert answers(after) != answers(before)


def test_samplers_of_two_models_can_alternate(
    make_sampler: SamplerFactory, model: PreTrainedModel
) -> None:
    other = perturbed(model, seed=2)
    one, two = make_sampler(model, [END]), make_sampler(other, [END])
    for _ in range(2):
        assert worst_error(one.sample(PROMPTS, 2, 8, 1.0, seed=1), model) < 1e-4
        assert worst_error(two.sample(PROMPTS, 2, 8, 1.0, seed=1), other) < 1e-4


def test_samples_follow_an_adapter(make_sampler: SamplerFactory, model: PreTrainedModel) -> None:
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])
    policy = inject_adapter_in_model(config, copy_shared(model))
    torch.manual_seed(0)
    for name, parameter in policy.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    found = make_sampler(policy, [END]).sample(PROMPTS, 2, 8, 1.0, seed=1)
    # Adapters merged into the weights round differently from separate ones.
    assert worst_error(found, policy) < 5e-4
    assert worst_error(found, model) > 0.1


def test_importance_weights_of_a_fresh_policy_are_one(
    make_sampler: SamplerFactory, model: PreTrainedModel
) -> None:
    samples = make_sampler(model, [END]).sample(PROMPTS, 4, 8, 0.8, seed=1)
    for group in rollout_batches(samples, micro_tokens=300):
        with torch.no_grad():
            logits, _ = answer_logits(model, group.answers, "float32")
        found = token_log_probs(logits, group.answers.tokens_N, 0.8)
        weights = importance_weights(found, group.sampler_log_probs_N, 2.0)
        torch.testing.assert_close(weights, torch.ones_like(weights), atol=1e-3, rtol=0)


def test_ppo_resumed_with_a_sampler_gives_the_same_weights(
    make_sampler: SamplerFactory, model: PreTrainedModel, tmp_path: Path
) -> None:
    settings = PPOSettings(
        iterations=2,
        rollouts=6,
        max_tokens=6,
        text_rows=2,
        text_row=8,
        micro_tokens=300,
        checkpoint_every=1,
        learning_rate=3e-3,
    )

    def ppo_inputs() -> PPOInputs:
        reward = RewardModel(copy_shared(model), pad=0, seed=0)
        known = [[2, 50 + i, 3, END] for i in range(20)]
        reward.normalise(split_prompt(known, shared=False))
        policy = copy_shared(model)
        ids = torch.arange(8).repeat(4, 1) + 70
        return PPOInputs(
            policy=policy,
            critic=new_critic(policy, reward, settings),
            reference=model,
            reward=reward,
            sampler=lambda policy: make_sampler(policy, [END]),
            prompts=PROMPTS,
            text=Rows(ids, ids, torch.arange(8).repeat(4, 1)),
        )

    seen: list[Iteration] = []
    uninterrupted = ppo_inputs()
    run_ppo(uninterrupted, settings, seed=5, state=tmp_path / "a", on_iteration=seen.append)
    assert [i.number for i in seen] == [1, 2]
    assert seen[0].kl == pytest.approx(0, abs=1e-5)
    assert seen[1].kl > 1e-4, "the second iteration samples from updated weights"

    class Stopped(Exception):
        pass

    def stop(iteration: Iteration) -> None:
        if iteration.number == 2:
            raise Stopped

    with pytest.raises(Stopped):
        run_ppo(ppo_inputs(), settings, seed=5, state=tmp_path / "b", on_iteration=stop)
    resumed = ppo_inputs()
    run_ppo(resumed, settings, seed=5, state=tmp_path / "b")
    for one, two in zip(
        uninterrupted.policy.parameters(), resumed.policy.parameters(), strict=True
    ):
        assert torch.equal(one, two)
