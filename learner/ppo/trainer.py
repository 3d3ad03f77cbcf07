"""PPO against a reward model, with a KL penalty and the pre-training loss mixed in.

Each iteration samples answers, adds some off-policy answers that people rated, scores them all,
and takes a few clipped optimizer steps. Left out: updates of the reward model between iterations.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from learner.models.parameters import copy_shared
from learner.models.ranks import Ranks, copy_unsharded
from learner.models.training_state import load_sharded, save_sharded
from learner.ppo.advantages import adapted_kl_coef
from learner.ppo.off_policy import OffPolicyAnswer
from learner.ppo.rollouts import RolloutBatch, batch_rollouts, deal_rollouts, finished_share
from learner.ppo.steps import PPOInputs, PPOUpdater, UpdateStats
from learner.ppo.targets import PPOTargets, RolloutStats, TargetInputs, compute_targets
from learner.sampling.sampler import Sample
from learner.settings import Dtype, PPOSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Iteration:
    """Figures of one PPO iteration.

    Attributes:
        number: Number of the iteration, from 1.
        score: Normalised score that PPO climbs, mean.
        preferred: Probability that people prefer an answer to a typical rated one, as all votes
            tell, mean; 0 without posteriors.
        kl: Divergence from the reference policy, mean, in nats per answer.
        entropy: Entropy of the policy, mean, in nats per token.
        clip_ratio: Share of tokens whose ratio was clipped.
        value_error: Value loss.
        text_nll: Loss on the text, in nats per token; 0 without text.
        length: Tokens per answer, mean.
        ended: Share of finished answers.
        kl_coef: KL coefficient of the iteration.
        mismatch_kl: Divergence of the sampler from the trainer, in nats per token.
        effective_sample_size: Effective sample size of the off-policy answers' weights, as a
            share of their tokens.
        staleness: Versions since the off-policy answers were sampled, mean.
        live: Share of off-policy answers.

    """

    number: int
    score: float
    preferred: float
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


def run_ppo(
    inputs: PPOInputs,
    settings: PPOSettings,
    *,
    seed: int,
    state: Path,
    dtype: Dtype = "float32",
    on_iteration: Callable[[Iteration], None] = lambda _: None,
    raise_if_stopped: Callable[[], None] = lambda: None,
    ranks: Ranks | None = None,
) -> PreTrainedModel:
    """Train the policy for the settings' number of iterations, and return the best one, unsharded.

    The best one is the one whose answers people like best, as the posterior of all votes tells at
    the start of an iteration: PPO climbs a score that part of the votes taught, and may leave what
    people like behind. The policy that PPO started from is no candidate, nor is the one after the
    last iteration, of which no answers were sampled. Where no other is left, the last one is it.

    An interrupted run is resumed from `state`, and gives the same weights bit for bit on one
    machine with the same number of threads. Any number of processes may resume it; their results
    differ only by the rounding of sums.

    Args:
        inputs: Models and data.
        settings: Settings of PPO.
        seed: Random seed of the run.
        state: Folder of the training state.
        dtype: Type of the matrix products.
        on_iteration: Called with the figures of each iteration.
        raise_if_stopped: Called before every step; its exception stops the run.
        ranks: Processes that train together, over which the models are sharded.

    Raises:
        StateUnusable: `state` is the state of a run with other arguments.

    """
    trainer = _Trainer(inputs, settings, seed, dtype, raise_if_stopped, ranks or Ranks())
    first = trainer.resume(state)
    for number in range(first, settings.iterations):
        iteration = trainer.iterate(number)
        on_iteration(iteration)
        last = number + 1 == settings.iterations
        if last or (number + 1) % settings.checkpoint_every == 0:
            trainer.save(state, number + 1)
    return trainer.gather_best()


class _Trainer:
    """The iterations of one run, with its KL coefficient and truncation penalty."""

    def __init__(
        self,
        inputs: PPOInputs,
        settings: PPOSettings,
        seed: int,
        dtype: Dtype,
        raise_if_stopped: Callable[[], None],
        ranks: Ranks,
    ) -> None:
        least = settings.minibatches * ranks.size
        if settings.rollouts < least:
            raise ValueError(
                f"{settings.rollouts} rollouts are too few for {settings.minibatches} minibatches "
                f"in {ranks.size} processes; set at least {least}"
            )
        self._inputs = inputs
        self._settings = settings
        self._seed = seed
        self._dtype = dtype
        self._ranks = ranks
        self._kl_coef = settings.kl_coef
        self._unfinished_penalty = settings.unfinished_penalty
        # The sampler has an unsharded copy, so that each process samples tokens on its own.
        self._unsharded = inputs.policy if ranks.size == 1 else copy_shared(inputs.policy)
        self._sampler = inputs.sampler(self._unsharded)
        choose = inputs.posteriors is not None and settings.iterations > 1
        self._best = copy_shared(inputs.policy) if choose else None
        self._best_preferred = -math.inf
        for model in (inputs.policy, inputs.reference, inputs.reward.scalar.trunk):
            ranks.shard(model)
        self._updater = PPOUpdater(inputs, settings, dtype, ranks, raise_if_stopped, self._best)
        self._key = f"ppo {seed} {dtype} {settings.model_dump_json()}"

    def resume(self, folder: Path) -> int:
        """Load the state of an interrupted run; return the number of iterations done."""
        updater = self._updater
        saved = load_sharded(folder, updater.modules, updater.optimizer, self._key, self._ranks)
        if saved is None:
            return 0
        self._kl_coef = saved["kl_coef"]
        self._unfinished_penalty = saved["unfinished_penalty"]
        self._best_preferred = saved["best_preferred"]
        return int(saved["step"])

    def save(self, folder: Path, done: int) -> None:
        """Replace the saved state by that after `done` iterations."""
        extra = {
            "kl_coef": self._kl_coef,
            "unfinished_penalty": self._unfinished_penalty,
            "best_preferred": self._best_preferred,
            "step": done,
        }
        updater = self._updater
        save_sharded(folder, updater.modules, updater.optimizer, self._key, extra, self._ranks)

    def gather_best(self) -> PreTrainedModel:
        """Return the best policy, unsharded."""
        return self._gather_policy() if self._best is None else self._best

    def _gather_policy(self) -> PreTrainedModel:
        """Return the policy with its present weights, unsharded."""
        if self._ranks.size > 1:
            copy_unsharded(self._inputs.policy, self._unsharded)
        return self._unsharded

    def _keep_if_best(self, preferred: float) -> None:
        if self._best is not None and preferred > self._best_preferred:
            self._best_preferred = preferred
            copy_unsharded(self._inputs.policy, self._best)

    def iterate(self, number: int) -> Iteration:
        """Do one iteration: sample, score, and take the optimizer steps."""
        seed = self._seed * 100_003 + number
        generator = torch.Generator().manual_seed(seed)
        started = time.monotonic()
        off_policy = self._pick_off_policy(generator)
        minibatches = self._collect(off_policy, generator, seed)
        sampled = time.monotonic()
        batches = [batch for minibatch in minibatches for batch in minibatch]
        targets, rollout_stats = self._compute_targets(batches, first=number == 0)
        if number > 0:
            self._keep_if_best(rollout_stats.preferred)
        remaining = iter(targets)
        update_stats = self._updater.update(
            [[(batch, next(remaining)) for batch in minibatch] for minibatch in minibatches],
            generator,
        )
        logger.info(
            "iteration %d: %d answer tokens, of which %d are off-policy; sampled in %.1f s, "
            "trained on in %.1f s",
            number + 1,
            sum(len(batch.answers.tokens_N) for batch in batches),
            sum(len(answer.sample.token_ids) for answer in off_policy),
            sampled - started,
            time.monotonic() - sampled,
        )
        iteration = self._iteration(number + 1, off_policy, rollout_stats, update_stats)
        if self._settings.kl_target is not None:
            self._kl_coef = adapted_kl_coef(
                self._kl_coef, iteration.kl, target=self._settings.kl_target
            )
        return iteration

    def _compute_targets(
        self, batches: Sequence[RolloutBatch], *, first: bool
    ) -> tuple[list[PPOTargets], RolloutStats]:
        if first:
            # Scale the truncation penalty by the initial EOS rate, so that a low token limit does
            # not reward short answers.
            self._unfinished_penalty *= finished_share(batches, self._ranks)
        inputs = TargetInputs(
            policy=self._inputs.policy,
            reference=self._inputs.reference,
            reward=self._inputs.reward,
            posteriors=self._inputs.posteriors,
            critic=self._inputs.critic,
            settings=self._settings,
            kl_coef=self._kl_coef,
            unfinished_penalty=self._unfinished_penalty,
            dtype=self._dtype,
            fit_critic=first,
        )
        return compute_targets(batches, inputs, self._ranks)

    def _iteration(
        self,
        number: int,
        off_policy: Sequence[OffPolicyAnswer],
        rollout_stats: RolloutStats,
        update_stats: UpdateStats,
    ) -> Iteration:
        return Iteration(
            number=number,
            kl_coef=self._kl_coef,
            staleness=sum(answer.staleness for answer in off_policy) / max(1, len(off_policy)),
            live=len(off_policy) / self._settings.rollouts,
            **asdict(rollout_stats),
            **asdict(update_stats),
        )

    def _pick_off_policy(self, generator: torch.Generator) -> list[OffPolicyAnswer]:
        """Draw the off-policy answers of an iteration, each at most once."""
        pool = self._inputs.off_policy
        count = min(round(self._settings.rollouts * self._settings.live_share), len(pool))
        order = torch.randperm(len(pool), generator=generator)[:count]
        return [pool[i] for i in order.tolist()]

    def _collect(
        self, off_policy: Sequence[OffPolicyAnswer], generator: torch.Generator, seed: int
    ) -> list[list[RolloutBatch]]:
        """Return this process's batches of each minibatch of an iteration.

        Rollouts are numbered: first the fresh ones, then the off-policy ones.
        """
        settings, prompts = self._settings, self._inputs.prompts
        fresh = settings.rollouts - len(off_policy)
        picked = torch.randint(len(prompts), (fresh,), generator=generator).tolist()
        order = torch.randperm(settings.rollouts, generator=generator).tolist()
        dealt = deal_rollouts(order, settings.minibatches, self._ranks)
        numbers = sorted(number for members in dealt for number in members)
        to_sample = [number for number in numbers if number < fresh]
        samples = dict(zip(to_sample, self._sample(picked, to_sample, seed), strict=True))
        samples |= {n: off_policy[n - fresh].sample for n in numbers if n >= fresh}
        return [
            batch_rollouts(
                [samples[n] for n in members],
                [n < fresh for n in members],
                pad=self._inputs.reward.pad,
                micro_tokens=settings.micro_tokens,
                device=self._inputs.policy.device,
                ranks=self._ranks,
            )
            for members in dealt
        ]

    def _sample(self, picked: Sequence[int], numbers: Sequence[int], seed: int) -> list[Sample]:
        """Sample the rollouts of these numbers; `picked` has the prompt index of each number."""
        self._gather_policy()  # all processes take part, also those whose rollouts are off-policy
        if not numbers:
            return []
        return self._sampler.sample(
            [self._inputs.prompts[picked[number]] for number in numbers],
            1,
            self._settings.max_tokens,
            self._settings.temperature,
            seed,
            numbers,
        )


def iteration_figures(iteration: Iteration) -> dict[str, float]:
    """Return the figures of an iteration by name, for metrics and files."""
    return {name: float(value) for name, value in asdict(iteration).items()}
