"""Worker that runs one iteration of Plaudit's PPO per turn, with the learner's `run_ppo`."""

import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import LlamaConfig, LlamaForCausalLM

from bench.turns import Memory, Turns
from learner.data.packing import Rows
from learner.models.parameters import count_parameters
from learner.ppo.critic import new_critic
from learner.ppo.steps import PPOInputs
from learner.ppo.trainer import Iteration, run_ppo
from learner.reward.model import RewardModel
from learner.sampling.sampler import Sample, Sampler, TransformersSampler
from learner.settings import PPOSettings


class Watch:
    """Stopwatch that pauses PPO between iterations and times them; also wraps the sampler."""

    def __init__(self, sampler: Sampler, turns: Turns, device: str, memory: Memory) -> None:
        self._sampler = sampler
        self._turns = turns
        self._device = device
        self._memory = memory
        self._started = self._cpu = self._generating = 0.0
        self._tokens = self._steps = 0

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        max_tokens: int,
        temperature: float,
        seed: int,
        numbers: Sequence[int] | None = None,
    ) -> list[Sample]:
        start = time.perf_counter()
        samples = self._sampler.sample(prompts, n, max_tokens, temperature, seed, numbers)
        self._generating += time.perf_counter() - start
        self._tokens += sum(len(sample.token_ids) for sample in samples)
        return samples

    def count_step(self, *_: Any) -> None:
        self._steps += 1

    def begin(self) -> None:
        self._turns.wait()
        self._generating, self._tokens, self._steps = 0.0, 0, 0
        self._started, self._cpu = time.perf_counter(), time.process_time()

    def end(self, _: Iteration) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()
        self._turns.report(
            seconds=time.perf_counter() - self._started,
            cpu_seconds=time.process_time() - self._cpu,
            generating=self._generating,
            tokens=self._tokens,
            optimizer_steps=self._steps,
            peak_bytes=self._memory.peak(),
        )
        self.begin()


def new_model(spec: dict[str, Any], seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=spec["vocabulary"],
        hidden_size=spec["hidden"],
        intermediate_size=spec["feed_forward"],
        num_hidden_layers=spec["layers"],
        num_attention_heads=spec["heads"],
        num_key_value_heads=spec["heads"],
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).to(spec["device"]).eval()


def settings_of(spec: dict[str, Any]) -> PPOSettings:
    """Return settings that match TRL's; `critic` is 'separate' for a critic with its own trunk."""
    return PPOSettings(
        iterations=100_000,
        checkpoint_every=100_000,  # neither side saves
        rollouts=spec["batch"],
        epochs=spec["epochs"],
        minibatches=1,
        max_tokens=spec["response"],
        micro_tokens=spec["batch"] * (spec["prompt"] + spec["response"]),
        learning_rate=1e-5,
        critic_learning_rate=1e-5,
        unfinished_penalty=0.0,
        text_coef=0.0,
        separate_critic=spec["critic"] == "separate",
    )


def ppo_inputs(spec: dict[str, Any]) -> PPOInputs:
    """Return models with random weights and prompts with random tokens."""
    policy, reference = new_model(spec, 0), new_model(spec, 0)
    reward = RewardModel(new_model(spec, 1), pad=0, seed=0, dtype=spec["dtype"])
    never = spec["vocabulary"]  # an end token that cannot be sampled: answers have full length
    draw = random.Random(0)
    no_text = torch.zeros((0, 0), dtype=torch.long)
    return PPOInputs(
        policy=policy,
        critic=new_critic(policy, reward, settings_of(spec)),
        reference=reference,
        reward=reward,
        sampler=lambda policy: TransformersSampler(
            policy, [never], batch=spec["batch"], dtype=spec["dtype"]
        ),
        prompts=[
            [draw.randrange(spec["vocabulary"]) for _ in range(spec["prompt"])] for _ in range(1024)
        ],
        text=Rows(no_text, no_text, no_text),
    )


def run(spec: dict[str, Any], turns: Turns, folder: Path) -> None:
    """Run PPO as long as there are turns."""
    memory = Memory(spec["device"])
    settings, inputs = settings_of(spec), ppo_inputs(spec)
    watch = Watch(inputs.sampler(inputs.policy), turns, spec["device"], memory)
    inputs = replace(inputs, sampler=lambda _: watch)
    register_optimizer_step_post_hook(watch.count_step)
    turns.report(
        torch=torch.__version__,
        transformers=transformers.__version__,
        threads=torch.get_num_threads(),
        policy_parameters=count_parameters(inputs.policy),
        trained_parameters=count_parameters(inputs.policy) + count_parameters(inputs.critic),
        own_critic=settings.separate_critic,
        dtype=spec["dtype"],
        device=spec["device"],
    )
    watch.begin()
    run_ppo(
        inputs,
        settings,
        seed=0,
        state=folder / "ppo",
        dtype=spec["dtype"],
        on_iteration=watch.end,
    )


def main() -> None:
    turns = Turns()
    spec: dict[str, Any] = json.loads(sys.argv[1])
    torch.set_num_threads(spec["threads"])
    with TemporaryDirectory() as folder:
        run(spec, turns, Path(folder))


if __name__ == "__main__":
    main()
