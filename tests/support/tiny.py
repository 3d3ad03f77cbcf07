"""The smallest model that the learner's tests train, with its prompts and PPO inputs."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from learner.data.packing import Rows
from learner.data.structure import STRUCTURE_SIZE
from learner.data.tokenizer import train_tokenizer
from learner.models.loading import new_model
from learner.models.parameters import copy_shared
from learner.models.ranks import Ranks
from learner.ppo.critic import new_critic
from learner.ppo.off_policy import OffPolicyAnswer
from learner.ppo.reward import PessimisticScore, VotePosteriors
from learner.ppo.rollouts import RolloutBatch, batch_rollouts, rows_from_samples
from learner.ppo.steps import PPOInputs
from learner.reward.features import AnswerFeatures
from learner.reward.model import RewardModel
from learner.reward.posterior import ScorePosterior
from learner.sampling.sampler import Sample, TransformersSampler
from learner.settings import PPOSettings, PretrainSettings

END = 5
TINY = PretrainSettings(
    vocabulary=300, hidden=32, layers=2, heads=1, feed_forward=32, initial_deviation=0.3
)
PROMPTS = [[2, 50, 3], [2, 51, 52, 53, 3], [2, 60, 61, 3]]
TINY_PPO = PPOSettings(
    iterations=3,
    rollouts=6,
    max_tokens=6,
    text_rows=2,
    text_row=8,
    micro_tokens=30,
    checkpoint_every=1,
    learning_rate=3e-3,
)


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(["a b"], vocabulary=300, context=64)


def tiny_model() -> PreTrainedModel:
    return new_model(TINY, train_tokenizer(["a b"], vocabulary=300, context=64)).eval()


def answer_features(model: PreTrainedModel, micro_tokens: int = 256) -> AnswerFeatures:
    return AnswerFeatures(model, tiny_tokenizer(), 0, "float32", micro_tokens)


def text() -> Rows:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(6, 262, (4, 8), generator=generator)
    return Rows(ids, ids, torch.arange(8).expand(4, 8).contiguous())


def rollout_batches(samples: list[Sample], micro_tokens: int = 30) -> list[RolloutBatch]:
    """Batch samples for forward passes of up to `micro_tokens` tokens, all of them on-policy."""
    return batch_rollouts(
        samples,
        [True] * len(samples),
        pad=0,
        micro_tokens=micro_tokens,
        device=torch.device("cpu"),
        ranks=Ranks(),
    )


def sample_answers(model: PreTrainedModel, n: int = 4) -> list[Sample]:
    return TransformersSampler(model, [END]).sample(PROMPTS, n, 8, 1.0, seed=1)


def ppo_inputs(model: PreTrainedModel, settings: PPOSettings = TINY_PPO) -> PPOInputs:
    reward = RewardModel(copy_shared(model), pad=0, seed=0)
    reward.normalise(rows_from_samples(sample_answers(model)))
    policy = copy_shared(model)
    return PPOInputs(
        policy=policy,
        critic=new_critic(policy, reward, settings),
        reference=model,
        reward=reward,
        sampler=lambda policy: TransformersSampler(policy, [END]),
        prompts=PROMPTS,
        text=text(),
        off_policy=[OffPolicyAnswer(sample, 1) for sample in sample_answers(model, 1)],
        posteriors=posteriors(model),
    )


def posteriors(model: PreTrainedModel) -> VotePosteriors:
    """Return posteriors with weights drawn at random."""
    size = 2 * TINY.hidden + STRUCTURE_SIZE
    generator = torch.Generator().manual_seed(4)
    score, judge = (
        ScorePosterior(
            mean_D=torch.zeros(size),
            scale_D=torch.full((size,), size**0.5),
            weights_DS=torch.randn(size, 20, generator=generator, dtype=torch.float64),
            log_tie=torch.tensor(-1.0),
        )
        for _ in range(2)
    )
    half, zero, one = torch.tensor(0.5), torch.tensor(0.0), torch.tensor(1.0)
    rewarded = PessimisticScore(score, half, half, zero, one)
    return VotePosteriors(answer_features(model), rewarded, judge)
