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
from learner.ppo.reward import VotePosteriors
from learner.ppo.rollouts import RolloutBatch
from learner.ppo.targets import PPOTargets
from learner.pretraining.next_token import rows_divergence, rows_loss
from learner.reward.model import RewardModel
from learner.sampling.sampler import Sampler
from learner.settings import Dtype, PPOSettings

# The rollouts of one minibatch on this process, with their targets.
Minibatch = Sequence[tuple[RolloutBatch, PPOTargets]]


@dataclass(frozen=True, slots=True)
class PPOInputs:
    """Models and data of one PPO run.

    Attributes:
        policy: Policy, trained in place.
        critic: Critic, trained in place: a head on the policy's trunk or a separate model.
        reference: Reference policy of the KL penalty; not changed.
        reward: Reward model; not changed.
        sampler: Function that returns a sampler of a policy, which samples from the policy's
            weights at each call.
        prompts: Token ids of the prompts to answer.
        text: Packed text for the pre-training loss.
        text_by_reference: Whether the reference policy wrote the text. The loss is then the
            divergence from its distributions instead of the likelihood of the tokens.
        off_policy: Answers that people rated, to be replayed.
        posteriors: What the votes say beside the reward model. Without them the reward model alone
            scores the answers, and the last policy is the candidate.

    """

    policy: PreTrainedModel
    critic: ValueHead | SeparateCritic
    reference: PreTrainedModel
    reward: RewardModel
    sampler: Callable[[PreTrainedModel], Sampler]
    prompts: Sequence[Sequence[int]]
    text: Rows
    text_by_reference: bool = False
    off_policy: Sequence[OffPolicyAnswer] = ()
    posteriors: VotePosteriors | None = None


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """Figures of an iteration's steps, each the mean over the steps of all processes.

    Attributes:
        clip_ratio: Share of tokens whose ratio was clipped.
        value_error: Value loss.
        text_nll: Loss on the text, in nats per token; 0 without text.

    """

    clip_ratio: float
    value_error: float
    text_nll: float


class PPOUpdater:
    """The optimizer of one PPO run, for policy and critic.

    Attributes:
        modules: Policy, critic and best policy as one module, so that one state holds all.
        optimizer: Optimizer of policy and critic.

    """

    def __init__(
        self,
        inputs: PPOInputs,
        settings: PPOSettings,
        dtype: Dtype,
        ranks: Ranks,
        raise_if_stopped: Callable[[], None],
        best: PreTrainedModel | None = None,
    ) -> None:
        """Create the optimizer; the models must be sharded already.

        Args:
            inputs: Models and data.
            settings: Settings of PPO.
            dtype: Type of the matrix products.
            ranks: Processes that train together.
            raise_if_stopped: Called before every step; its exception stops the training.
            best: Best policy so far, unsharded and not trained; None if there is no judge.

        """
        self._inputs, self._settings = inputs, settings
        self._dtype, self._ranks, self._raise_if_stopped = dtype, ranks, raise_if_stopped
        self.modules = nn.ModuleDict({"policy": inputs.policy, "critic": inputs.critic})
        if best is not None:
            self.modules["best"] = best
        policy, critic = (list(trainable_parameters(m)) for m in (inputs.policy, inputs.critic))
        self.optimizer = AdamW(
            [
                {"params": policy, "lr": settings.learning_rate},
                {"params": critic, "lr": settings.critic_learning_rate},
            ],
            betas=(0.9, 0.95),
            weight_decay=0.0,
            fused=True,
        )

    def update(self, minibatches: Sequence[Minibatch], generator: torch.Generator) -> UpdateStats:
        """Take all optimizer steps of an iteration.

        Args:
            minibatches: This process's part of each minibatch.
            generator: Random generator of the order of the minibatches and of the text.

        """
        figures = torch.zeros(3)
        counts = [
            self._ranks.total(sum(len(batch.answers.tokens_N) for batch, _ in minibatch))
            for minibatch in minibatches
        ]
        for _ in range(self._settings.epochs):
            for number in torch.randperm(len(minibatches), generator=generator).tolist():
                figures += self._step(minibatches[number], counts[number], generator)
        steps = self._settings.epochs * len(minibatches)
        return UpdateStats(*(self._ranks.total(figure / steps) for figure in figures.tolist()))

    def _step(self, minibatch: Minibatch, count: float, generator: torch.Generator) -> Tensor:
        """Take one optimizer step, with one backward pass for each batch of the minibatch.

        Returns:
            Share of clipped tokens, value loss and loss on the text, [3], on the CPU.

        """
        self._raise_if_stopped()
        policy, critic = self._inputs.policy, self._inputs.critic
        figures = torch.zeros(3)
        for batch, targets in minibatch:
            figures[:2] += self._backward(batch.answers, targets, count).cpu()
        if self._settings.text_coef > 0:
            figures[2] = self._text_backward(generator)
        self._ranks.sum_gradients(critic)
        nn.utils.clip_grad_norm_(trainable_parameters(policy), self._settings.clip_norm)
        nn.utils.clip_grad_norm_(trainable_parameters(critic), self._settings.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return figures

    def _backward(self, batch: AnswerBatch, targets: PPOTargets, count: float) -> Tensor:
        """Add the gradient of the policy and value losses of one batch.

        Returns:
            Share of clipped tokens and value loss, [2].

        """
        settings = self._settings
        logits_NV, states_NH = answer_logits(self._inputs.policy, batch, self._dtype)
        log_probs_N = token_log_probs(logits_NV, batch.tokens_N, settings.temperature)
        loss = policy_loss(
            log_probs_N,
            targets.old_log_probs_N,
            targets.advantages_N,
            targets.weights_N,
            clip=settings.clip_ratio,
            count=count,
        )
        value_error = value_loss(
            self._inputs.critic.values(batch, states_NH),
            targets.old_values_N,
            targets.returns_N,
            targets.weights_N,
            clip=settings.clip_value,
            count=count,
        )
        (loss + settings.value_coef * value_error).backward()  # type: ignore[no-untyped-call]
        clipped = clipped_share(
            log_probs_N.detach(), targets.old_log_probs_N, clip=settings.clip_ratio, count=count
        )
        return torch.stack([clipped, value_error.detach()])

    def _text_backward(self, generator: torch.Generator) -> float:
        """Add the gradient of the pre-training loss on some rows of text (PPO-ptx).

        Returns:
            This process's part of the mean loss, in nats per token.

        """
        text, policy = self._inputs.text, self._inputs.policy
        picked = torch.randint(len(text), (self._settings.text_rows,), generator=generator)
        rows_of_rank = picked[self._ranks.rank :: self._ranks.size]
        share = text.count_labels(rows_of_rank) / max(1, text.count_labels(picked))
        if not len(rows_of_rank):
            rows_of_rank = picked[:1]  # with share 0: all processes take part in a forward pass
        rows = text.select(rows_of_rank, policy.device)
        with compute_in(self._dtype, rows.input_ids_NT):
            if self._inputs.text_by_reference:
                loss, nll = rows_divergence(policy, self._inputs.reference, rows)
            else:
                loss = nll = rows_loss(policy, rows)
        (self._settings.text_coef * share * loss).backward()  # type: ignore[no-untyped-call]
        return share * nll.item()
