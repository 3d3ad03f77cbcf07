"""PPO against a reward model, with KL to a reference and the pre-training loss mixed in.

Each iteration samples answers, takes some that people rated before, scores them, and takes a few
clipped steps. Left out: several updates of the reward model in between.
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
from learner.answers import AnswerBatch
from learner.checkpoint import load_state, restore, save_state, training_state
from learner.critic import SeparateCritic, ValueHead
from learner.live import LiveAnswer
from learner.losses import clipped_share, policy_loss, token_log_probs, value_loss
from learner.model import autocast, choices, trained
from learner.next_token import next_token_loss
from learner.packing import Rows
from learner.reward import RewardModel
from learner.rollouts import Group, Targets, collect, rows_of, targets
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
        mismatch_kl: Of the sampler to the trainer, nats a token.
        effective_sample_size: Of the live answers' weights, as a share of their tokens.
        staleness: Versions since the live answers were sampled, mean.
        live: Share of answers that people rated.

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
    mismatch_kl: float
    effective_sample_size: float
    staleness: float
    live: float


@dataclass(slots=True)
class Players:
    """The models of one PPO run, and what they learn from.

    Attributes:
        policy: Trained in place.
        critic: Trained in place; a head on the policy's trunk, or a model of its own.
        reference: The SFT policy; not changed.
        reward: Not changed.
        prompts: Token ids to answer.
        text: Packed text for the pre-training loss.
        live: Answers that people rated.

    """

    policy: PreTrainedModel
    critic: ValueHead | SeparateCritic
    reference: PreTrainedModel
    reward: RewardModel
    sampler: Sampler
    prompts: Sequence[Sequence[int]]
    text: Rows
    live: Sequence[LiveAnswer] = ()


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
            fused=True,
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
        live = self._take_live(generator)
        samples = [
            *self._sample(self._settings.rollouts - len(live), generator, seed),
            *(answer.sample for answer in live),
        ]
        groups = collect(
            samples,
            pad=self._players.reward.pad,
            micro_tokens=self._settings.micro_tokens,
            minibatches=self._settings.minibatches,
            device=self._players.policy.device,
        )
        scores_B = self._players.reward.score(
            rows_of(samples), micro_tokens=self._settings.micro_tokens
        )
        ended_B = torch.tensor([s.finished for s in samples])
        fresh_B = torch.arange(len(samples)) < len(samples) - len(live)
        fixed, measured = targets(
            groups,
            torch.where(ended_B, scores_B, scores_B - self._settings.unfinished_penalty),
            fresh_B,
            policy=self._players.policy,
            reference=self._players.reference,
            critic=self._players.critic,
            settings=self._settings,
            kl_coef=self._kl_coef,
            dtype=self._dtype,
            first=number == 0,
        )
        clip_ratio, value_error, text_nll = self._update(groups, fixed, generator)
        own_B = fresh_B if len(live) < len(samples) else ~fresh_B
        lengths_B = torch.tensor([float(len(s.token_ids)) for s in samples])
        iteration = Iteration(
            number=number + 1,
            score=scores_B[own_B].mean().item(),
            clip_ratio=clip_ratio,
            value_error=value_error,
            text_nll=text_nll,
            length=lengths_B[own_B].mean().item(),
            ended=ended_B[own_B].float().mean().item(),
            kl_coef=self._kl_coef,
            staleness=sum(answer.staleness for answer in live) / max(1, len(live)),
            live=len(live) / len(samples),
            **asdict(measured),
        )
        if self._settings.kl_target is not None:
            self._kl_coef = adapted_kl_coef(
                self._kl_coef, measured.kl, target=self._settings.kl_target
            )
        return iteration

    def _take_live(self, generator: torch.Generator) -> list[LiveAnswer]:
        pool = self._players.live
        count = min(round(self._settings.rollouts * self._settings.live_share), len(pool))
        order = torch.randperm(len(pool), generator=generator)[:count]
        return [pool[i] for i in order.tolist()]

    def _sample(self, count: int, generator: torch.Generator, seed: int) -> list[Sample]:
        if count == 0:
            return []
        prompts = self._players.prompts
        picked = torch.randint(len(prompts), (count,), generator=generator)
        return self._players.sampler.sample(
            [prompts[i] for i in picked.tolist()],
            1,
            self._settings.max_tokens,
            self._settings.temperature,
            seed,
        )

    def _update(
        self, groups: Sequence[Group], fixed: Sequence[Targets], generator: torch.Generator
    ) -> tuple[float, float, float]:
        """Take all steps of an iteration; gives mean clip share, value loss and text NLL."""
        figures = torch.zeros(3)
        steps = 0
        for _ in range(self._settings.epochs):
            order = torch.randperm(len(groups), generator=generator).tolist()
            share = -(-len(order) // self._settings.minibatches)
            for start in range(0, len(order), share):
                picked = [(groups[i], fixed[i]) for i in order[start : start + share]]
                figures += self._step(picked, generator)
                steps += 1
        clip_ratio, value_error, text_nll = (figures / steps).tolist()
        return clip_ratio, value_error, text_nll

    def _step(
        self, minibatch: Sequence[tuple[Group, Targets]], generator: torch.Generator
    ) -> Tensor:
        """Take one optimizer step on a minibatch, in as many backward passes as it has groups."""
        self._check()
        count = float(sum(len(group.batch.tokens_N) for group, _ in minibatch))
        figures = torch.zeros(3)
        for group, fixed in minibatch:
            figures[:2] += self._backward(group.batch, fixed, count).cpu()
        if self._settings.text_coef > 0:
            figures[2] = self._text_backward(generator)
        nn.utils.clip_grad_norm_(trained(self._players.policy), self._settings.clip_norm)
        nn.utils.clip_grad_norm_(trained(self._players.critic), self._settings.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return figures

    def _backward(self, batch: AnswerBatch, fixed: Targets, count: float) -> Tensor:
        settings = self._settings
        logits_NV, states_NH = choices(self._players.policy, batch, self._dtype)
        log_probs_N = token_log_probs(logits_NV, batch.tokens_N, settings.temperature)
        loss = policy_loss(
            log_probs_N,
            fixed.old_log_probs_N,
            fixed.advantages_N,
            fixed.weights_N,
            clip=settings.clip_ratio,
            count=count,
        )
        errors = value_loss(
            self._players.critic.values(batch, states_NH),
            fixed.old_values_N,
            fixed.returns_N,
            clip=settings.clip_value,
            count=count,
        )
        (loss + settings.value_coef * errors).backward()  # type: ignore[no-untyped-call]
        clipped = clipped_share(
            log_probs_N.detach(), fixed.old_log_probs_N, clip=settings.clip_ratio, count=count
        )
        return torch.stack([clipped, errors.detach()])

    def _text_backward(self, generator: torch.Generator) -> float:
        """Add the gradient of the pre-training loss on some rows of text (PPO-ptx)."""
        text = self._players.text
        picked = torch.randint(len(text), (self._settings.text_rows,), generator=generator)
        device = self._players.policy.device
        with autocast(self._dtype, device):
            logits_BTV = self._players.policy(
                input_ids=text.input_ids_NT[picked].to(device),
                position_ids=text.positions_NT[picked].to(device),
                use_cache=False,
            ).logits
        loss = next_token_loss(logits_BTV, text.labels_NT[picked].to(device))
        (self._settings.text_coef * loss).backward()  # type: ignore[no-untyped-call]
        return loss.item()


def as_figures(iteration: Iteration) -> dict[str, float]:
    """Give an iteration's figures by name, for metrics and files."""
    return {name: float(value) for name, value in asdict(iteration).items()}
