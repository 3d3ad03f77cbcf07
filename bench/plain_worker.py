"""Worker with a hand-written loop in plain PyTorch and transformers: PPO or a reward model.

It has the models, batches and optimizer steps of Plaudit's workers: `generate` for the answers, one
padded batch, autocast, and a value head on the policy.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from transformers import LlamaForCausalLM

from bench.plaudit_ppo_worker import new_model
from bench.turns import Memory, Turns

KL_COEF, LAM, CLIP, VALUE_COEF = 0.1, 0.95, 0.2, 0.1


class _Scalar(nn.Module):
    """A language model's trunk with a linear head."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__()
        self.trunk = new_model(spec, 1).model
        self.head = nn.Linear(spec["hidden"], 1, bias=False, device=spec["device"])

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Return the score of each row, [B]."""
        scores: Tensor = self.head(self.trunk(input_ids=ids_BT).last_hidden_state[:, -1])[:, 0]
        return scores


class _PPO:
    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.policy, self.reference = new_model(spec, 0), new_model(spec, 0)
        self.reward = _Scalar(spec)
        self.head = nn.Linear(spec["hidden"], 1, bias=False, device=spec["device"])
        self.trained = [*self.policy.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-5, weight_decay=0.0, fused=True)
        self.generating = 0.0

    def _outputs(self, model: LlamaForCausalLM, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and hidden states of the answers, [B, T] and [B, T, H]."""
        answer = ids_BT[:, self.spec["prompt"] :]
        states = model.model(input_ids=ids_BT).last_hidden_state[:, self.spec["prompt"] - 1 : -1]
        log_probs = model.lm_head(states).float().log_softmax(-1)
        return log_probs.gather(-1, answer[..., None])[..., 0], states

    @torch.no_grad()
    def _sample(self) -> Tensor:
        spec = self.spec
        shape = (spec["batch"], spec["prompt"])
        prompts = torch.randint(spec["vocabulary"], shape, device=spec["device"])
        started = time.perf_counter()
        ids: Tensor = self.policy.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            top_k=0,
            max_new_tokens=spec["response"],
            pad_token_id=0,
        )
        _synchronize(spec["device"])
        self.generating = time.perf_counter() - started
        return ids

    @torch.no_grad()
    def _targets(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return old log-probabilities and values, advantages and returns, [B, T] each."""
        old, states = self._outputs(self.policy, ids)
        values = self.head(states)[..., 0].float()
        rewards = -KL_COEF * (old - self._outputs(self.reference, ids)[0])
        rewards[:, -1] += self.reward(ids)
        advantages, later = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
        for t in reversed(range(rewards.shape[1])):
            following = values[:, t + 1] if t + 1 < rewards.shape[1] else 0.0
            later = rewards[:, t] + following - values[:, t] + LAM * later
            advantages[:, t] = later
        returns = advantages + values
        return old, values, (advantages - advantages.mean()) / advantages.std(), returns

    def step(self) -> dict[str, Any]:
        """Do one iteration: sample, score, and take the optimizer steps."""
        with _autocast(self.spec):
            ids = self._sample()
            old, old_values, advantages, returns = self._targets(ids)
        for _ in range(self.spec["epochs"]):
            with _autocast(self.spec):
                log_probs, states = self._outputs(self.policy, ids)
                values = self.head(states)[..., 0].float()
            ratio = (log_probs - old).exp()
            clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
            near = old_values + (values - old_values).clamp(-CLIP, CLIP)
            value_loss = torch.maximum((values - returns) ** 2, (near - returns) ** 2).mean() / 2
            loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
            _optimize(self.optimizer, self.trained, loss + VALUE_COEF * value_loss)
        tokens = self.spec["batch"] * self.spec["response"]
        steps = self.spec["epochs"]
        return {"generating": self.generating, "tokens": tokens, "optimizer_steps": steps}


class _Reward:
    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.model = _Scalar(spec)
        self.trained = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-5, fused=True)
        shape = (spec["prompts"], 2, spec["prompt"] + spec["response"])
        self.pairs = torch.randint(spec["vocabulary"], shape, device=spec["device"])

    def step(self) -> dict[str, Any]:
        """Do one epoch over all pairs."""
        batches = self.pairs.split(self.spec["batch"])
        for batch in batches:
            with _autocast(self.spec):
                scores = self.model(batch.flatten(0, 1)).float().view(-1, 2)
            loss = -logsigmoid(scores[:, 0] - scores[:, 1]).mean()
            _optimize(self.optimizer, self.trained, loss)
        return {"optimizer_steps": len(batches)}


def _optimize(optimizer: torch.optim.Optimizer, trained: list[nn.Parameter], loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _autocast(spec: dict[str, Any]) -> torch.autocast:
    return torch.autocast(spec["device"], torch.bfloat16, enabled=spec["dtype"] == "bfloat16")


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    turns = Turns()
    spec: dict[str, Any] = json.loads(sys.argv[1])
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    memory = Memory(spec["device"])
    kinds: dict[str, Callable[[dict[str, Any]], _PPO | _Reward]] = {"ppo": _PPO, "reward": _Reward}
    worker = kinds[spec["work"]](spec)
    turns.report(torch=torch.__version__, dtype=spec["dtype"], device=spec["device"], own_critic=0)
    while True:
        turns.wait()
        started, cpu = time.perf_counter(), time.process_time()
        figures = worker.step()
        _synchronize(spec["device"])
        turns.report(
            seconds=time.perf_counter() - started,
            cpu_seconds=time.process_time() - cpu,
            peak_bytes=memory.peak(),
            **figures,
        )


if __name__ == "__main__":
    main()
