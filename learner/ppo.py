"""PPO against a reward model, with KL to a reference and the pre-training loss mixed in.

Each iteration samples answers, takes some that people rated before, scores them, and takes a few
clipped steps. Left out: several updates of the reward model in between.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import PreTrainedModel

from learner.advantages import adapted_kl_coef
from learner.answers import AnswerBatch
from learner.checkpoint import load_sharded, save_sharded
from learner.critic import SeparateCritic, ValueHead
from learner.live import LiveAnswer
from learner.losses import clipped_share, policy_loss, token_log_probs, value_loss
from learner.model import choices, computing, trained, twin
from learner.next_token import rows_divergence, rows_loss
from learner.packing import Rows
from learner.ranks import Ranks, copy_whole
from learner.reward import RewardModel
from learner.rollouts import Group, Targets, collect, targets
from learner.sampler import Sample, Sampler
from learner.settings import Dtype, PPOSettings

logger = logging.getLogger(__name__)


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
        sampler: Gives one that samples from a policy as it is at each call.
        prompts: Token ids to answer.
        text: Packed text for the pre-training loss.
        text_by_reference: Whether the reference wrote it; then its whole distributions are to
            stay, not only the tokens that it drew.
        live: Answers that people rated.

    """

    policy: PreTrainedModel
    critic: ValueHead | SeparateCritic
    reference: PreTrainedModel
    reward: RewardModel
    sampler: Callable[[PreTrainedModel], Sampler]
    prompts: Sequence[Sequence[int]]
    text: Rows
    text_by_reference: bool = False
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
    ranks: Ranks | None = None,
) -> PreTrainedModel:
    """Train the policy for the settings' iterations, and give it whole; resumes from `state`.

    Killed and resumed, it gives the same weights bit for bit, on one machine and number of
    threads. Several processes, each with the same arguments, give what one gives but for the
    rounding of sums, and can resume what another number of them has left.

    Args:
        state: A folder.
        check: Called before every step; what it raises stops the run, to be resumed.
        ranks: The processes that train together; the models are spread over them.

    """
    trainer = _Trainer(players, settings, seed, dtype, check, ranks or Ranks())
    first = trainer.resume(state)
    for number in range(first, settings.iterations):
        iteration = trainer.iterate(number)
        if on_iteration is not None:
            on_iteration(iteration)
        last = number + 1 == settings.iterations
        if last or (number + 1) % settings.checkpoint_every == 0:
            trainer.save(state, number + 1)
    return trainer.whole()


class _Trainer:
    """The optimizer, and the KL coefficient, of one run."""

    def __init__(
        self,
        players: Players,
        settings: PPOSettings,
        seed: int,
        dtype: Dtype,
        check: Callable[[], None],
        ranks: Ranks,
    ) -> None:
        least = settings.minibatches * ranks.size
        if settings.rollouts < least:
            raise ValueError(f"{settings.rollouts} rollouts are too few: at least {least}")
        self._check = check
        self._players = players
        self._settings = settings
        self._seed = seed
        self._dtype = dtype
        self._ranks = ranks
        self._kl_coef = settings.kl_coef
        # What is sampled from is whole: a token takes one process, not all of them.
        self._whole = players.policy if ranks.size == 1 else twin(players.policy)
        self._sampler = players.sampler(self._whole)
        for model in (players.policy, players.reference, players.reward.scalar.trunk):
            ranks.shard(model)
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

    def resume(self, folder: Path) -> int:
        """Give the number of iterations done."""
        saved = load_sharded(folder, self._modules, self._optimizer, self._key, self._ranks)
        if saved is None:
            return 0
        self._kl_coef = saved["kl_coef"]
        return int(saved["step"])

    def save(self, folder: Path, done: int) -> None:
        """Replace the state by that after `done` iterations."""
        extra = {"kl_coef": self._kl_coef, "step": done}
        save_sharded(folder, self._modules, self._optimizer, self._key, extra, self._ranks)

    def whole(self) -> PreTrainedModel:
        """Give the policy as it is, on one device."""
        if self._ranks.size > 1:
            copy_whole(self._players.policy, self._whole)
        return self._whole

    def iterate(self, number: int) -> Iteration:
        """Sample, score, and take the steps of one iteration."""
        seed = self._seed * 100_003 + number
        generator = torch.Generator().manual_seed(seed)
        started = time.monotonic()
        live = self._take_live(generator)
        minibatches = self._collect(live, generator, seed)
        sampled = time.monotonic()
        players = self._players
        groups = [group for minibatch in minibatches for group in minibatch]
        fixed, measured = targets(
            groups,
            policy=players.policy,
            reference=players.reference,
            reward=players.reward,
            critic=players.critic,
            settings=self._settings,
            kl_coef=self._kl_coef,
            dtype=self._dtype,
            ranks=self._ranks,
            first=number == 0,
        )
        of_group = iter(fixed)
        paired = [[(group, next(of_group)) for group in minibatch] for minibatch in minibatches]
        clip_ratio, value_error, text_nll = self._update(paired, generator)
        logger.info(
            "iteration %d: %d tokens of answers, of them %d rated before; sampled in %.1f s, "
            "learned from in %.1f s",
            number + 1,
            sum(len(group.batch.tokens_N) for group in groups),
            sum(len(answer.sample.token_ids) for answer in live),
            sampled - started,
            time.monotonic() - sampled,
        )
        iteration = Iteration(
            number=number + 1,
            clip_ratio=clip_ratio,
            value_error=value_error,
            text_nll=text_nll,
            kl_coef=self._kl_coef,
            staleness=sum(answer.staleness for answer in live) / max(1, len(live)),
            live=len(live) / self._settings.rollouts,
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

    def _collect(
        self, live: Sequence[LiveAnswer], generator: torch.Generator, seed: int
    ) -> list[list[Group]]:
        """Give the iteration's minibatches, as this process's groups of each."""
        settings, prompts = self._settings, self._players.prompts
        fresh = settings.rollouts - len(live)
        picked = torch.randint(len(prompts), (fresh,), generator=generator).tolist()
        order = torch.randperm(settings.rollouts, generator=generator).tolist()
        mine = self._ranks.share(range(settings.rollouts))
        sampled = [number for number in mine if number < fresh]
        samples = dict(zip(sampled, self._sample(picked, sampled, seed), strict=True))
        samples |= {number: live[number - fresh].sample for number in mine if number >= fresh}
        minibatches = []
        for start in range(settings.minibatches):
            own = [number for number in order[start :: settings.minibatches] if number in samples]
            minibatches.append(
                collect(
                    [samples[number] for number in own],
                    [number < fresh for number in own],
                    pad=self._players.reward.pad,
                    micro_tokens=settings.micro_tokens,
                    device=self._players.policy.device,
                    ranks=self._ranks,
                )
            )
        return minibatches

    def _sample(self, picked: Sequence[int], numbers: Sequence[int], seed: int) -> list[Sample]:
        if not numbers:
            return []
        self.whole()
        return self._sampler.sample(
            [self._players.prompts[picked[number]] for number in numbers],
            1,
            self._settings.max_tokens,
            self._settings.temperature,
            seed,
            numbers,
        )

    def _update(
        self,
        minibatches: Sequence[Sequence[tuple[Group, Targets]]],
        generator: torch.Generator,
    ) -> tuple[float, float, float]:
        """Take all steps of an iteration; gives mean clip share, value loss and text NLL."""
        figures = torch.zeros(3)
        counts = [
            self._ranks.total(sum(len(group.batch.tokens_N) for group, _ in minibatch))
            for minibatch in minibatches
        ]
        for _ in range(self._settings.epochs):
            for number in torch.randperm(len(minibatches), generator=generator).tolist():
                figures += self._step(minibatches[number], counts[number], generator)
        steps = self._settings.epochs * len(minibatches)
        clip_ratio, value_error, text_nll = (self._ranks.total(f / steps) for f in figures.tolist())
        return clip_ratio, value_error, text_nll

    def _step(
        self,
        minibatch: Sequence[tuple[Group, Targets]],
        count: float,
        generator: torch.Generator,
    ) -> Tensor:
        """Take one optimizer step on a minibatch, in as many backward passes as it has groups."""
        self._check()
        policy, critic = self._players.policy, self._players.critic
        figures = torch.zeros(3)
        for group, fixed in minibatch:
            figures[:2] += self._backward(group.batch, fixed, count).cpu()
        if self._settings.text_coef > 0:
            figures[2] = self._text_backward(generator)
        self._ranks.sum_gradients(critic)
        nn.utils.clip_grad_norm_(trained(policy), self._settings.clip_norm)
        nn.utils.clip_grad_norm_(trained(critic), self._settings.clip_norm)
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
            fixed.weights_N,
            clip=settings.clip_value,
            count=count,
        )
        (loss + settings.value_coef * errors).backward()  # type: ignore[no-untyped-call]
        clipped = clipped_share(
            log_probs_N.detach(), fixed.old_log_probs_N, clip=settings.clip_ratio, count=count
        )
        return torch.stack([clipped, errors.detach()])

    def _text_backward(self, generator: torch.Generator) -> float:
        """Add the gradient of the pre-training loss on some rows of text (PPO-ptx).

        Gives this process's part of the mean loss.
        """
        text, policy = self._players.text, self._players.policy
        picked = torch.randint(len(text), (self._settings.text_rows,), generator=generator)
        own = picked[self._ranks.rank :: self._ranks.size]
        share = text.labelled(own) / max(1, text.labelled(picked))
        if not len(own):
            own = picked[:1]  # its share is nothing, but a forward pass takes all processes
        part = text.some(own, policy.device)
        with computing(self._dtype, part.input_ids_NT):
            if self._players.text_by_reference:
                loss, nll = rows_divergence(policy, self._players.reference, part)
            else:
                loss = nll = rows_loss(policy, part)
        (self._settings.text_coef * share * loss).backward()  # type: ignore[no-untyped-call]
        return share * nll.item()


def as_figures(iteration: Iteration) -> dict[str, float]:
    """Give an iteration's figures by name, for metrics and files."""
    return {name: float(value) for name, value in asdict(iteration).items()}
