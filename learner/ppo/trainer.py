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
from transformers import PreTrainedModel

from learner.models.parameters import copy_shared
from learner.models.ranks import Ranks, copy_unsharded
from learner.models.training_state import load_sharded, save_sharded
from learner.ppo.advantages import adapted_kl_coef
from learner.ppo.off_policy import OffPolicyAnswer
from learner.ppo.rollouts import RolloutBatch, batch_rollouts, finished_share, targets
from learner.ppo.steps import PPOInputs, PPOUpdater
from learner.sampling.sampler import Sample
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


def run_ppo(
    players: PPOInputs,
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
    """The iterations of one run, and its KL coefficient."""

    def __init__(
        self,
        players: PPOInputs,
        settings: PPOSettings,
        seed: int,
        dtype: Dtype,
        check: Callable[[], None],
        ranks: Ranks,
    ) -> None:
        least = settings.minibatches * ranks.size
        if settings.rollouts < least:
            raise ValueError(f"{settings.rollouts} rollouts are too few: at least {least}")
        self._players = players
        self._settings = settings
        self._seed = seed
        self._dtype = dtype
        self._ranks = ranks
        self._kl_coef = settings.kl_coef
        self._unfinished_penalty = settings.unfinished_penalty
        # What is sampled from is whole: a token takes one process, not all of them.
        self._whole = players.policy if ranks.size == 1 else copy_shared(players.policy)
        self._sampler = players.sampler(self._whole)
        for model in (players.policy, players.reference, players.reward.scalar.trunk):
            ranks.shard(model)
        self._steps = PPOUpdater(players, settings, dtype, ranks, check)
        self._key = f"ppo {seed} {dtype} {settings.model_dump_json()}"

    def resume(self, folder: Path) -> int:
        """Return the number of iterations done."""
        saved = load_sharded(
            folder, self._steps.modules, self._steps.optimizer, self._key, self._ranks
        )
        if saved is None:
            return 0
        self._kl_coef = saved["kl_coef"]
        self._unfinished_penalty = saved["unfinished_penalty"]
        return int(saved["step"])

    def save(self, folder: Path, done: int) -> None:
        """Replace the state by that after `done` iterations."""
        extra = {
            "kl_coef": self._kl_coef,
            "unfinished_penalty": self._unfinished_penalty,
            "step": done,
        }
        save_sharded(
            folder, self._steps.modules, self._steps.optimizer, self._key, extra, self._ranks
        )

    def whole(self) -> PreTrainedModel:
        """Return the policy as it is, on one device."""
        if self._ranks.size > 1:
            copy_unsharded(self._players.policy, self._whole)
        return self._whole

    def iterate(self, number: int) -> Iteration:
        """Sample, score, and take the steps of one iteration."""
        seed = self._seed * 100_003 + number
        generator = torch.Generator().manual_seed(seed)
        started = time.monotonic()
        live = self._pick_off_policy(generator)
        minibatches = self._collect(live, generator, seed)
        sampled = time.monotonic()
        players = self._players
        groups = [group for minibatch in minibatches for group in minibatch]
        if number == 0:
            # Who is cut off as a rule, for want of tokens, is not to learn brevity by that.
            self._unfinished_penalty *= finished_share(groups, self._ranks)
        fixed, measured = targets(
            groups,
            policy=players.policy,
            reference=players.reference,
            reward=players.reward,
            critic=players.critic,
            settings=self._settings,
            kl_coef=self._kl_coef,
            unfinished_penalty=self._unfinished_penalty,
            dtype=self._dtype,
            ranks=self._ranks,
            first=number == 0,
        )
        of_group = iter(fixed)
        paired = [[(group, next(of_group)) for group in minibatch] for minibatch in minibatches]
        clip_ratio, value_error, text_nll = self._steps.take(paired, generator)
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

    def _pick_off_policy(self, generator: torch.Generator) -> list[OffPolicyAnswer]:
        pool = self._players.live
        count = min(round(self._settings.rollouts * self._settings.live_share), len(pool))
        order = torch.randperm(len(pool), generator=generator)[:count]
        return [pool[i] for i in order.tolist()]

    def _collect(
        self, live: Sequence[OffPolicyAnswer], generator: torch.Generator, seed: int
    ) -> list[list[RolloutBatch]]:
        """Return the iteration's minibatches, as this process's groups of each."""
        settings, prompts = self._settings, self._players.prompts
        fresh = settings.rollouts - len(live)
        picked = torch.randint(len(prompts), (fresh,), generator=generator).tolist()
        order = torch.randperm(settings.rollouts, generator=generator).tolist()
        mine = self._ranks.shard_items(range(settings.rollouts))
        sampled = [number for number in mine if number < fresh]
        samples = dict(zip(sampled, self._sample(picked, sampled, seed), strict=True))
        samples |= {number: live[number - fresh].sample for number in mine if number >= fresh}
        minibatches = []
        for start in range(settings.minibatches):
            own = [number for number in order[start :: settings.minibatches] if number in samples]
            minibatches.append(
                batch_rollouts(
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


def iteration_figures(iteration: Iteration) -> dict[str, float]:
    """Return an iteration's figures by name, for metrics and files."""
    return {name: float(value) for name, value in asdict(iteration).items()}
