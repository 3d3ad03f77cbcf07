"""Adapters on one frozen trunk: what is shared, what is trained, what is on disk."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from learner.data.answers import split_prompt
from learner.data.packing import Rows
from learner.data.tokenizer import train_tokenizer
from learner.errors import Interrupted
from learner.models.adapters import add_adapter, is_adapter
from learner.models.loading import load_model, load_variant, new_model
from learner.models.parameters import copy_shared, trainable_parameters, trunk_of
from learner.models.precision import freeze
from learner.models.saving import model_exists, save_adapter, save_model
from learner.ppo.critic import critic_from_reward_model, new_critic
from learner.ppo.rollouts import rows_from_samples
from learner.ppo.steps import PPOInputs
from learner.ppo.trainer import Iteration, run_ppo
from learner.reward.model import RewardModel, load_trained_state, trained_state
from learner.sampling.sampler import TransformersSampler
from learner.settings import LARGE_MODEL_PARAMETERS, LearnerSettings, LoraSettings, PPOSettings
from tests.support.tiny import END, PROMPTS, TINY, TINY_PPO

LORA = LoraSettings(rank=8)
IDS = torch.tensor([[2, 50, 51, 3, 60, 61, END]])


FLOAT32 = pytest.mark.parametrize("base", ["float32"], indirect=True)


@pytest.fixture(params=["float32", "bfloat16"])
def base(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A frozen model, as the reference is where adapters are trained."""
    tokenizer = train_tokenizer(["a b"], vocabulary=300, context=64)
    return freeze(new_model(TINY, tokenizer).eval(), request.param)


def test_a_frozen_model_keeps_the_angles_of_its_positions_exact(base: PreTrainedModel) -> None:
    assert dict(base.named_buffers())
    assert {buffer.dtype for buffer in base.buffers()} == {torch.float32}


def moved(model: PreTrainedModel, seed: int = 9) -> PreTrainedModel:
    """Return every adapter weight a random value, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable_parameters(model):
            parameter.normal_(0, 0.1, generator=generator)
    return model


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    found: Tensor = model(input_ids=IDS).logits
    return found


def storages(*modules: torch.nn.Module) -> dict[int, int]:
    """Bytes of each distinct piece of memory under the parameters of some modules."""
    found = [p.untyped_storage() for m in modules for p in m.parameters()]
    return {s.data_ptr(): s.nbytes() for s in found}


def ppo_inputs(base: PreTrainedModel) -> PPOInputs:
    reward = RewardModel(add_adapter(copy_shared(base), LORA, 1), pad=0, seed=1)
    samples = TransformersSampler(base, [END]).sample(PROMPTS, 4, 8, 1.0, seed=1)
    reward.normalise(rows_from_samples(samples))
    policy = add_adapter(copy_shared(base), LORA, 2)
    ids = torch.randint(6, 262, (4, 8), generator=torch.Generator().manual_seed(3))
    return PPOInputs(
        policy=policy,
        critic=new_critic(policy, reward, TINY_PPO),
        reference=base,
        reward=reward,
        sampler=lambda policy: TransformersSampler(policy, [END]),
        prompts=PROMPTS,
        text=Rows(ids, ids, torch.arange(8).expand(4, 8).contiguous()),
    )


def test_a_new_adapter_changes_nothing_and_its_seed_gives_it(base: PreTrainedModel) -> None:
    one, again, other = (add_adapter(copy_shared(base), LORA, seed) for seed in (1, 1, 2))
    assert torch.equal(logits(one), logits(base))
    pairs = list(zip(trainable_parameters(one), trainable_parameters(again), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not all(
        torch.equal(a, b)
        for a, b in zip(trainable_parameters(one), trainable_parameters(other), strict=True)
    )
    assert not torch.equal(logits(moved(one)), logits(base))


def test_adapters_are_float32_on_weights_of_any_format(base: PreTrainedModel) -> None:
    policy = add_adapter(copy_shared(base), LORA, 0)
    assert {p.dtype for p in trainable_parameters(policy)} == {torch.float32}
    assert {p.dtype for p in policy.parameters() if not p.requires_grad} == {base.dtype}


def test_making_an_adapter_leaves_the_global_random_state(base: PreTrainedModel) -> None:
    before = torch.get_rng_state()
    add_adapter(copy_shared(base), LORA, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_only_linear_layers_of_the_trunk_are_adapted(base: PreTrainedModel) -> None:
    policy = add_adapter(copy_shared(base), LORA, 0)
    # Per layer: q, k, v, o are 32 x 32, and so are gate, up and down; A and B have rank 8.
    assert sum(p.numel() for p in trainable_parameters(policy)) == TINY.layers * 7 * (
        8 * 32 + 32 * 8
    )
    below = {id(p) for p in trainable_parameters(trunk_of(policy))}
    assert {id(p) for p in trainable_parameters(policy)} == below
    assert policy.get_output_embeddings().weight is base.get_output_embeddings().weight


def test_hidden_states_and_head_give_the_logits(base: PreTrainedModel) -> None:
    policy = moved(add_adapter(copy_shared(base), LORA, 0))
    with torch.no_grad():
        hidden = trunk_of(policy)(input_ids=IDS).last_hidden_state
        assert torch.equal(policy.get_output_embeddings()(hidden), logits(policy))


def test_all_players_stand_on_one_trunk_in_memory(base: PreTrainedModel) -> None:
    inputs = ppo_inputs(base)
    inputs = replace(inputs, critic=critic_from_reward_model(inputs.reward))
    alone = sum(storages(base).values())
    together = storages(inputs.policy, inputs.critic, inputs.reward, base)
    own = [
        p for m in (inputs.policy, inputs.critic, inputs.reward) for p in trainable_parameters(m)
    ]
    assert sum(together.values()) == alone + sum(4 * p.numel() for p in own)


def test_ppo_trains_the_adapters_and_leaves_the_reference(
    base: PreTrainedModel, tmp_path: Path
) -> None:
    inputs = ppo_inputs(base)
    before = {n: p.clone() for n, p in base.named_parameters()}
    outputs, first = logits(base), [p.clone() for p in trainable_parameters(inputs.policy)]
    found: list[Iteration] = []
    run_ppo(inputs, TINY_PPO, seed=0, state=tmp_path / "s", on_iteration=found.append)
    assert found[0].kl == 0
    assert found[-1].kl != 0
    assert all(torch.equal(p, before[n]) for n, p in base.named_parameters())
    assert torch.equal(logits(base), outputs)
    after = trainable_parameters(inputs.policy)
    assert not any(torch.equal(a, b) for a, b in zip(after, first, strict=True))
    saved_names = FileSystemReader(tmp_path / "s").read_metadata().state_dict_metadata
    weights = [n for n in saved_names if n.startswith("training.model.")]
    assert weights
    assert all("lora_" in n or n.startswith("training.model.critic.linear.") for n in weights)


def test_killed_and_resumed_ppo_gives_the_same_adapter(
    base: PreTrainedModel, tmp_path: Path
) -> None:
    whole = ppo_inputs(base)
    run_ppo(whole, TINY_PPO, seed=5, state=tmp_path / "whole")

    def kill(iteration: Iteration) -> None:
        if iteration.number == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_ppo(ppo_inputs(base), TINY_PPO, seed=5, state=tmp_path / "s", on_iteration=kill)
    resumed = ppo_inputs(base)
    run_ppo(resumed, TINY_PPO, seed=5, state=tmp_path / "s")
    pairs = list(
        zip(trainable_parameters(whole.policy), trainable_parameters(resumed.policy), strict=True)
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_reward_model_is_put_back_into_one_of_another_seed(base: PreTrainedModel) -> None:
    reward = RewardModel(moved(add_adapter(copy_shared(base), LORA, 1)), pad=0, seed=1)
    again = RewardModel(add_adapter(copy_shared(base), LORA, 0), pad=0, seed=0)
    load_trained_state(again, trained_state(reward))
    rows = split_prompt(IDS.tolist())
    assert torch.equal(again.score(rows), reward.score(rows))
    assert not any(n.endswith("embed_tokens.weight") for n in trained_state(reward))


def saved(base: PreTrainedModel, folder: Path) -> tuple[Path, Path, PreTrainedModel]:
    """Return the folders of full weights and of an adapter, and the adapted policy."""
    save_model(base, train_tokenizer(["a b"], vocabulary=300, context=64), folder / "full")
    policy = moved(add_adapter(copy_shared(base), LORA, 3))
    return folder / "full", save_adapter(policy, folder / "adapter"), policy


def test_an_adapter_comes_back_from_disk_as_it_was(base: PreTrainedModel, tmp_path: Path) -> None:
    full, folder, policy = saved(base, tmp_path)
    assert is_adapter(folder)
    assert model_exists(folder)
    assert not is_adapter(full)
    again = load_variant(base, folder, full)
    assert torch.equal(logits(again), logits(policy))
    assert not torch.equal(logits(again), logits(base))
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in policy.named_parameters() if p.requires_grad
    }
    own = sum(4 * p.numel() for p in trainable_parameters(again))
    assert sum(storages(base, again).values()) == sum(storages(base).values()) + own
    # And it goes on: what is trained from here is saved and loaded again.
    moved(again, seed=10)
    save_adapter(again, tmp_path / "next")
    assert torch.equal(logits(load_variant(base, tmp_path / "next", full)), logits(again))


@FLOAT32
def test_the_folder_is_what_peft_and_vllm_read(base: PreTrainedModel, tmp_path: Path) -> None:
    full, folder, policy = saved(base, tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (8, 32, 0.0)
    assert config["target_modules"] == sorted(config["target_modules"])
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in names
    assert len(names) == TINY.layers * 7 * 2
    theirs = PeftModel.from_pretrained(load_model(full), str(folder))
    assert torch.equal(logits(theirs), logits(policy))


@FLOAT32
def test_full_tuning_goes_on_from_an_adapter_merged_into_the_weights(
    base: PreTrainedModel, tmp_path: Path
) -> None:
    full, folder, policy = saved(base, tmp_path)
    reference = load_model(full)
    whole = load_variant(reference, folder, full)
    torch.testing.assert_close(logits(whole), logits(policy), atol=1e-5, rtol=1e-4)
    assert all(p.requires_grad for p in whole.parameters())
    assert not storages(reference).keys() & storages(whole).keys()
    assert torch.equal(logits(reference), logits(base))
    tokenizer = train_tokenizer(["a b"], vocabulary=300, context=64)
    save_model(whole, tokenizer, tmp_path / "merged")
    assert not is_adapter(tmp_path / "merged")
    assert torch.equal(logits(load_model(tmp_path / "merged")), logits(whole))


@FLOAT32
def test_adapters_on_later_full_weights_leave_these_and_the_reference_alone(
    base: PreTrainedModel, tmp_path: Path
) -> None:
    full, _, _ = saved(base, tmp_path)
    tokenizer = train_tokenizer(["a b"], vocabulary=300, context=64)
    later = load_model(full)
    with torch.no_grad():
        trunk_of(later).norm.weight.mul_(1.5)
    save_model(later, tokenizer, tmp_path / "later")
    before = logits(base)
    policy = add_adapter(load_variant(base, tmp_path / "later"), LORA, 0)
    assert torch.equal(logits(policy), logits(later))
    save_adapter(moved(policy), tmp_path / "adapter")
    again = load_variant(base, tmp_path / "adapter", tmp_path / "later")
    assert torch.equal(logits(again), logits(policy))
    assert all("lora_" in n for n, p in again.named_parameters() if p.requires_grad)
    assert torch.equal(logits(base), before)


def test_gpt2s_transposed_layers_are_adapted_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=1, n_head=1)
    reference = GPT2LMHeadModel(config).eval().requires_grad_(False)
    policy = moved(add_adapter(copy_shared(reference), LORA, 0))
    # c_attn is 32 x 96, attn.c_proj 32 x 32, c_fc 32 x 128, mlp.c_proj 128 x 32.
    assert sum(p.numel() for p in trainable_parameters(policy)) == 8 * (128 + 64 + 160 + 160)
    save_adapter(policy, tmp_path / "adapter")
    reference.save_pretrained(tmp_path / "full")
    again = load_variant(reference, tmp_path / "adapter", tmp_path / "full")
    assert torch.equal(logits(again), logits(policy))


def test_adapters_by_default_above_a_size_and_by_wish() -> None:
    settings = LearnerSettings()
    assert settings.for_model(LARGE_MODEL_PARAMETERS, 1.0).tune == "full"
    assert settings.for_model(LARGE_MODEL_PARAMETERS + 1, 1.0).tune == "lora"
    assert LearnerSettings(tune="full").for_model(LARGE_MODEL_PARAMETERS + 1, 1.0).tune == "full"
    small = LearnerSettings(tune="lora", ppo=PPOSettings(critic_learning_rate=7e-3))
    chosen = small.for_model(5_000_000, 1.0)
    assert chosen.tune == "lora"
    assert chosen.ppo.learning_rate > settings.ppo.learning_rate, "adapters take larger steps"
    assert chosen.ppo.critic_learning_rate == 7e-3
    assert chosen.ppo.rollouts == settings.ppo.rollouts
