"""Worker that trains Plaudit's reward model for an epoch per turn, by `train_reward`."""

import json
import sys
import time
from typing import Any

import torch
import transformers
from torch.optim.optimizer import register_optimizer_step_post_hook

from bench.plaudit_ppo_worker import new_model
from bench.turns import Memory, Turns
from learner.data.preferences import PreferenceExample
from learner.models.parameters import count_parameters
from learner.reward.evaluation import RewardReport
from learner.reward.model import RewardModel
from learner.reward.reliability import Reliabilities
from learner.reward.training import train_reward
from learner.settings import RewardSettings


class Watch:
    """Stopwatch that pauses the training between epochs and times them."""

    def __init__(self, turns: Turns, device: str, memory: Memory) -> None:
        self._turns = turns
        self._memory = memory
        self._device = device
        self._started = self._cpu = 0.0
        self._steps = 0

    def begin(self) -> None:
        self._turns.wait()
        self._steps = 0
        self._started, self._cpu = time.perf_counter(), time.process_time()

    def end(self, _: RewardReport) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()
        self._turns.report(
            seconds=time.perf_counter() - self._started,
            cpu_seconds=time.process_time() - self._cpu,
            optimizer_steps=self._steps,
            peak_bytes=self._memory.peak(),
        )
        self.begin()

    def count_step(self, *_: Any) -> None:
        self._steps += 1


def rankings(spec: dict[str, Any]) -> list[PreferenceExample]:
    """Return one ranking without ties of each prompt's answers; two answers form a pair."""
    generator = torch.Generator().manual_seed(0)
    shape = (spec["prompts"], spec["answers"])

    def draw(*size: int) -> torch.Tensor:
        return torch.randint(spec["vocabulary"], size, generator=generator)

    prompts = draw(spec["prompts"], 1, spec["prompt"]).expand(*shape, spec["prompt"])
    sequences = torch.cat([prompts, draw(*shape, spec["response"])], dim=-1).tolist()
    ranks = tuple(range(spec["answers"]))
    lengths = (spec["response"],) * spec["answers"]
    return [
        PreferenceExample(str(i), tuple(map(tuple, s)), lengths, ranks)
        for i, s in enumerate(sequences)
    ]


def main() -> None:
    turns = Turns()
    spec: dict[str, Any] = json.loads(sys.argv[1])
    torch.set_num_threads(spec["threads"])
    memory = Memory(spec["device"])
    model = RewardModel(new_model(spec, 0), pad=0, seed=0, dtype=spec["dtype"])
    examples = rankings(spec)
    turns.report(
        torch=torch.__version__,
        transformers=transformers.__version__,
        threads=torch.get_num_threads(),
        parameters=count_parameters(model),
        rankings=len(examples),
        dtype=spec["dtype"],
        device=spec["device"],
    )
    watch = Watch(turns, spec["device"], memory)
    register_optimizer_step_post_hook(watch.count_step)
    watch.begin()
    train_reward(
        model,
        examples,
        held_out=[],
        settings=RewardSettings(
            epochs=100_000,
            patience=100_000,
            batch=spec["batch"],
            learning_rate=1e-5,
            min_train=1,
        ),
        seed=0,
        reliabilities=Reliabilities(),
        on_epoch=watch.end,
    )


if __name__ == "__main__":
    main()
