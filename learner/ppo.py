"""PPO against a reward model, with KL to a reference and the pre-training loss mixed in.

Each iteration samples answers, scores them, and takes a few clipped steps. Left out: off-policy
rollouts, value heads on the policy's own trunk, several updates of the reward model in between.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import PreTrainedModel

from learner.advantages import adapted_kl_coef
from learner.checkpoint import load_state, restore, save_state, training_state
from learner.losses import clipped_share, policy_loss, value_loss
from learner.model import ScalarModel, autocast, trained
from learner.next_token import next_token_loss
from learner.packing import Rows
from learner.reward import RewardModel, sequences_of
from learner.rollouts import Rollouts, Targets, collect, forward_policy, forward_values, targets
from learner.sampler import Sample, Sampler
from learner.settings import Dtype, PPOSettings


@dataclass(frozen=True, slots=True)
class Iteration:
    """Figures of one PPO iteration.

    Attributes:
        score: Mean of the reward model, normalised.
        kl: Nats in an answer to the reference, mean.
        entropy: Nats in a token.
        clip_ratio: Share of tokens whose ratio was clipped.
        value_error: Value loss.
        text_nll: Of the text mixed in, nats in a token; 0 where none is.
        length: Tokens in an answer, mean.
        ended: Share of answers that ended by themselves.
        kl_coef: In use.

    """

    number: int
    score: float
    kl: float
    entropy: float
    clip_ratio: float
    value_error: float
    text_nll: float
    length: float
    ended: float
    kl_coef: float


@dataclass(slots=True)
class Players:
    """The models of one PPO run, and what they learn from.

    Attributes:
        policy: Trained in place.
        critic: Trained in place; starts as a copy of the reward model's trunk and head.
        reference: The SFT policy; not changed.
        reward: Not changed.
        prompts: Token ids to answer.
        text: Packed text for the pre-training loss.

    """

    policy: PreTrainedModel
    critic: ScalarModel
    reference: PreTrainedModel
    reward: RewardModel
    sampler: Sampler
    prompts: Sequence[Sequence[int]]
    text: Rows


def run_ppo(
    players: Players,
    settings: PPOSettings,
    *,
    seed: int,
    state: Path,
    dtype: Dtype = "float32",
    on_iteration: Callable[[Iteration], None] | None = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Train the policy for the settings' iterations; resumes from the file `state`.

    Killed and resumed, it gives the same weights bit for bit, on one machine and number of
    threads.

    Args:
        check: Called before every step; what it raises stops the run, to be resumed.

    """
    trainer = _Trainer(players, settings, seed, dtype, check)
    first = trainer.resume(state)
    for number in range(first, settings.iterations):
        iteration = trainer.iterate(number)
        if on_iteration is not None:
            on_iteration(iteration)
        last = number + 1 == settings.iterations
        if last or (number + 1) % settings.checkpoint_every == 0:
            trainer.save(state, number + 1)


class _Trainer:
    """The optimizers, and the KL coefficient, of one run."""

    def __init__(
        self,
        players: Players,
        settings: PPOSettings,
        seed: int,
        dtype: Dtype,
        check: Callable[[], None],
    ) -> None:
        self._check = check
        self._players = players
        self._settings = settings
        self._seed = seed
        self._dtype = dtype
        self._kl_coef = settings.kl_coef
        # Both in one module and one optimizer, so that one state holds all.
        self._modules = nn.ModuleDict({"policy": players.policy, "critic": players.critic})
        self._optimizer = AdamW(
            [
                {"params": list(trained(players.policy)), "lr": settings.learning_rate},
                {"params": list(trained(players.critic)), "lr": settings.critic_learning_rate},
            ],
            betas=(0.9, 0.95),
            weight_decay=0.0,
        )
        self._key = f"ppo {seed} {dtype} {settings.model_dump_json()}"

    def resume(self, path: Path) -> int:
        state = load_state(path)
        if state is None:
            return 0
        self._kl_coef = state["kl_coef"]
        return restore(state, self._modules, self._optimizer, self._key)

    def save(self, path: Path, done: int) -> None:
        state: dict[str, Any] = training_state(self._modules, self._optimizer, done, self._key)
        save_state(path, {**state, "kl_coef": self._kl_coef})

    def iterate(self, number: int) -> Iteration:
        """Sample, score, and take the steps of one iteration."""
        seed = self._seed * 100_003 + number
        generator = torch.Generator().manual_seed(seed)
        samples = self._sample(generator, seed)
        rollouts = collect(
            samples,
            pad=self._players.reward.pad,
            micro_tokens=self._settings.micro_tokens,
            minibatches=self._settings.minibatches,
        )
        scores_B = self._players.reward.score(
            sequences_of(samples), micro_tokens=self._settings.micro_tokens
        )
        ended_B = torch.tensor([s.finished for s in samples])
        fixed = targets(
            rollouts,
            torch.where(ended_B, scores_B, scores_B - self._settings.unfinished_penalty),
            policy=self._players.policy,
            reference=self._players.reference,
            critic=self._players.critic,
            settings=self._settings,
            kl_coef=self._kl_coef,
            dtype=self._dtype,
        )
        figures = self._update(rollouts, fixed, generator)
        kl = fixed.kl_B.mean().item()
        iteration = Iteration(
            number=number + 1,
            score=scores_B.mean().item(),
            kl=kl,
            entropy=fixed.entropy,
            clip_ratio=figures[0],
            value_error=figures[1],
            text_nll=figures[2],
            length=sum(len(s.token_ids) for s in samples) / len(samples),
            ended=ended_B.float().mean().item(),
            kl_coef=self._kl_coef,
        )
        if self._settings.kl_target is not None:
            self._kl_coef = adapted_kl_coef(self._kl_coef, kl, target=self._settings.kl_target)
        return iteration

    def _sample(self, generator: torch.Generator, seed: int) -> list[Sample]:
        prompts = self._players.prompts
        picked = torch.randint(len(prompts), (self._settings.rollouts,), generator=generator)
        return self._players.sampler.sample(
            [prompts[i] for i in picked.tolist()],
            1,
            self._settings.max_tokens,
            self._settings.temperature,
            seed,
        )

    def _update(
        self, rollouts: Rollouts, fixed: Targets, generator: torch.Generator
    ) -> tuple[float, float, float]:
        """Take all steps of an iteration; gives mean clip share, value loss and text NLL."""
        figures = torch.zeros(3)
        steps = 0
        for _ in range(self._settings.epochs):
            order = torch.randperm(len(rollouts.groups), generator=generator).tolist()
            share = -(-len(order) // self._settings.minibatches)
            for start in range(0, len(order), share):
                groups = [rollouts.groups[i] for i in order[start : start + share]]
                figures += self._step(groups, rollouts, fixed, generator)
                steps += 1
        clip_ratio, value_error, text_nll = (figures / steps).tolist()
        return clip_ratio, value_error, text_nll

    def _step(
        self,
        groups: list[list[int]],
        rollouts: Rollouts,
        fixed: Targets,
        generator: torch.Generator,
    ) -> Tensor:
        """Take one optimizer step on a minibatch, in as many backward passes as it has groups."""
        self._check()
        count = float(sum(int(rollouts.chosen_BT[group].sum()) for group in groups))
        figures = torch.zeros(3)
        for group in groups:
            figures[:2] += self._backward(group, count, rollouts, fixed)
        if self._settings.text_coef > 0:
            figures[2] = self._text_backward(generator)
        nn.utils.clip_grad_norm_(trained(self._players.policy), self._settings.clip_norm)
        nn.utils.clip_grad_norm_(trained(self._players.critic), self._settings.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return figures

    def _backward(
        self, group: list[int], count: float, rollouts: Rollouts, fixed: Targets
    ) -> Tensor:
        settings, width = self._settings, rollouts.width(group)
        mask_BT = rollouts.chosen_BT[group, :width]
        old_BT = fixed.old_log_probs_BT[group, :width]
        log_probs_BT, _ = forward_policy(
            self._players.policy,
            rollouts,
            group,
            temperature=settings.temperature,
            dtype=self._dtype,
        )
        loss = policy_loss(
            log_probs_BT,
            old_BT,
            fixed.advantages_BT[group, :width],
            fixed.weights_BT[group, :width],
            mask_BT,
            clip=settings.clip_ratio,
            count=count,
        )
        errors = value_loss(
            forward_values(self._players.critic, rollouts, group, dtype=self._dtype),
            fixed.old_values_BT[group, :width],
            fixed.returns_BT[group, :width],
            mask_BT,
            clip=settings.clip_value,
            count=count,
        )
        (loss + settings.value_coef * errors).backward()  # type: ignore[no-untyped-call]
        clipped = clipped_share(
            log_probs_BT.detach(), old_BT, mask_BT, clip=settings.clip_ratio, count=count
        )
        return torch.stack([clipped, errors.detach()])

    def _text_backward(self, generator: torch.Generator) -> float:
        """Add the gradient of the pre-training loss on some rows of text (PPO-ptx)."""
        text = self._players.text
        picked = torch.randint(len(text), (self._settings.text_rows,), generator=generator)
        with autocast(self._dtype):
            logits_BTV = self._players.policy(
                input_ids=text.input_ids_NT[picked],
                position_ids=text.positions_NT[picked],
                use_cache=False,
            ).logits
        loss = next_token_loss(logits_BTV, text.labels_NT[picked])
        (self._settings.text_coef * loss).backward()  # type: ignore[no-untyped-call]
        return loss.item()


def as_figures(iteration: Iteration) -> dict[str, float]:
    """Give an iteration's figures by name, for metrics and files."""
    return {name: float(value) for name, value in asdict(iteration).items()}
