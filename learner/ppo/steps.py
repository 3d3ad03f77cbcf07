"""The optimizer steps of PPO: clipped policy and value losses, and the pre-training loss (ptx)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import PreTrainedModel

from learner.data.answers import AnswerBatch
from learner.data.packing import Rows
from learner.models.forward import answer_logits
from learner.models.parameters import trainable_parameters
from learner.models.precision import compute_in
from learner.models.ranks import Ranks
from learner.ppo.critic import SeparateCritic, ValueHead
from learner.ppo.losses import clipped_share, policy_loss, token_log_probs, value_loss
from learner.ppo.off_policy import OffPolicyAnswer
from learner.ppo.rollouts import PPOTargets, RolloutBatch
from learner.pretraining.next_token import rows_divergence, rows_loss
from learner.reward.model import RewardModel
from learner.sampling.sampler import Sampler
from learner.settings import Dtype, PPOSettings


@dataclass(slots=True)
class PPOInputs:
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
    live: Sequence[OffPolicyAnswer] = ()


class PPOUpdater:
    """The steps of one run, with one optimizer for policy and critic.

    Attributes:
        modules: Policy and critic in one, so that one state holds both.
        optimizer: Theirs.

    """

    def __init__(
        self,
        players: PPOInputs,
        settings: PPOSettings,
        dtype: Dtype,
        ranks: Ranks,
        check: Callable[[], None],
    ) -> None:
        """Take the models after they are spread over the processes."""
        self._players, self._settings = players, settings
        self._dtype, self._ranks, self._check = dtype, ranks, check
        self.modules = nn.ModuleDict({"policy": players.policy, "critic": players.critic})
        self.optimizer = AdamW(
            [
                {
                    "params": list(trainable_parameters(players.policy)),
                    "lr": settings.learning_rate,
                },
                {
                    "params": list(trainable_parameters(players.critic)),
                    "lr": settings.critic_learning_rate,
                },
            ],
            betas=(0.9, 0.95),
            weight_decay=0.0,
            fused=True,
        )

    def take(
        self,
        minibatches: Sequence[Sequence[tuple[RolloutBatch, PPOTargets]]],
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
        minibatch: Sequence[tuple[RolloutBatch, PPOTargets]],
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
        nn.utils.clip_grad_norm_(trainable_parameters(policy), self._settings.clip_norm)
        nn.utils.clip_grad_norm_(trainable_parameters(critic), self._settings.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return figures

    def _backward(self, batch: AnswerBatch, fixed: PPOTargets, count: float) -> Tensor:
        settings = self._settings
        logits_NV, states_NH = answer_logits(self._players.policy, batch, self._dtype)
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
        share = text.count_labels(own) / max(1, text.count_labels(picked))
        if not len(own):
            own = picked[:1]  # its share is nothing, but a forward pass takes all processes
        part = text.select(own, policy.device)
        with compute_in(self._dtype, part.input_ids_NT):
            if self._players.text_by_reference:
                loss, nll = rows_divergence(policy, self._players.reference, part)
            else:
                loss = nll = rows_loss(policy, part)
        (self._settings.text_coef * share * loss).backward()  # type: ignore[no-untyped-call]
        return share * nll.item()
