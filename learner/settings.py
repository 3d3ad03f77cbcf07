"""Settings of the learner; the settings page of the documentation is generated from them.

Importing this module does not import torch.
"""

from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Dtype = Literal["float32", "bfloat16"]
SamplerKind = Literal["transformers", "vllm"]
Tune = Literal["full", "lora"]
# Models with more parameters are tuned by adapters, with smaller batches. Every trained copy of
# all weights would take 16 bytes per parameter with its gradients and optimizer state.
LARGE_MODEL_PARAMETERS: Final = 30_000_000
LORA_RATE: Final = 5e-4  # learning rate of a policy's adapters, for models of any size
OWN_TEXT_COEF: Final = 0.5  # weight of the divergence on text that the model itself wrote
REWARD_LORA_RATE: Final = 2e-4  # of a reward model's adapters; temperature 1.3 after 280 examples


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


_Section = TypeVar("_Section", bound=_Frozen)


class PretrainSettings(_Frozen):
    """Architecture of the default model, and its pre-training from random weights."""

    vocabulary: int = Field(2048, ge=300)
    """Number of tokens in the vocabulary."""
    hidden: int = Field(192, ge=8)
    """Width of the hidden states."""
    layers: int = Field(4, ge=1)
    """Number of transformer layers."""
    heads: int = Field(3, ge=1)
    """Number of attention heads."""
    feed_forward: int = Field(512, ge=8)
    """Width of the feed-forward layers."""
    context: int = Field(512, ge=32)
    """Context length in tokens."""
    initial_deviation: float = Field(0.05, gt=0)
    """Standard deviation of the initial random weights."""
    tokens: int = Field(700_000, ge=1)
    """Number of tokens to train on."""
    row: int = Field(256, ge=8)
    """Number of tokens in a packed row."""
    batch_tokens: int = Field(1024, ge=8)
    """Number of tokens in an optimizer step."""
    learning_rate: float = Field(4e-3, gt=0)
    """Peak learning rate."""
    warmup_ratio: float = Field(0.05, ge=0, le=1)
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = Field(0.05, ge=0)
    """Weight decay of AdamW."""
    clip_norm: float = Field(1.0, gt=0)
    """Bound on the norm of the gradient."""
    compiled: bool = False
    """Compile the model: two thirds of the time per token, after half a minute."""
    checkpoint_seconds: float = Field(15.0, ge=0)
    """Seconds between two saves of the training state."""
    seed: int = 0
    """Seed of the weights and of the order of the data."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.hidden % (2 * self.heads):
            raise ValueError(
                f"hidden must be a multiple of twice the heads, not {self.hidden} with "
                f"{self.heads} heads"
            )
        return self


class SftSettings(_Frozen):
    """Supervised fine-tuning on conversations, with the loss on the responses only."""

    tokens: int = Field(550_000, ge=1)
    """Number of tokens to train on."""
    row: int = Field(256, ge=8)
    """Number of tokens in a packed row."""
    batch_tokens: int = Field(1024, ge=8)
    """Number of tokens in an optimizer step."""
    text_share: float = Field(0.2, ge=0, lt=1)
    """Share of the tokens that are plain text, so that text completion does not regress."""
    learning_rate: float = Field(2e-3, gt=0)
    """Peak learning rate."""
    warmup_ratio: float = Field(0.05, ge=0, le=1)
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = Field(0.05, ge=0)
    """Weight decay of AdamW."""
    clip_norm: float = Field(1.0, gt=0)
    """Bound on the norm of the gradient."""
    compiled: bool = False
    """Compile the model: two thirds of the time per token, after half a minute."""
    checkpoint_seconds: float = Field(15.0, ge=0)
    """Seconds between two saves of the training state."""
    seed: int = 0
    """Seed of the order of the data."""


class RewardSettings(_Frozen):
    """The reward model, and the share of the prompts that is held out to measure it."""

    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate. Unless set: 2e-4 for adapters, 2e-5 for large models in full."""
    weight_decay: float = Field(0.05, ge=0)
    """Weight decay of AdamW."""
    epochs: int = Field(10, ge=1)
    """Largest number of epochs; the best one is kept. Unless set: 2 for large models."""
    patience: int = Field(3, ge=0)
    """Number of epochs without a lower held-out loss that end training."""
    batch: int = Field(16, ge=1)
    """Number of training examples in an optimizer step. Unless set: 8 for large models."""
    clip_norm: float = Field(1.0, gt=0)
    """Bound on the norm of the gradient."""
    held_out_share: float = Field(0.15, gt=0, lt=1)
    """Share of the prompts that are held out, by their hash."""
    min_train: int = Field(8, ge=1)
    """Number of votes, by their weights, below which nothing is trained."""
    micro_tokens: int = Field(4096, ge=1)
    """Largest number of padded tokens in a forward pass."""
    normalise_on: int = Field(128, ge=2)
    """Number of answers that scores are normalised on. Unless set: 32 for large models."""


class LoraSettings(_Frozen):
    """Adapters (LoRA): each linear layer is updated by the product of two thin matrices."""

    rank: int = Field(16, ge=1, le=256)
    """Rank of the two matrices."""
    alpha: int = Field(32, ge=1)
    """Scale of the update: alpha / rank."""


class PPOSettings(_Frozen):
    """Proximal policy optimisation (PPO) against the reward model."""

    iterations: int = Field(14, ge=1)
    """Number of iterations. Unless set: fewer, from 4, where the cycle's minutes are too few."""
    rollouts: int = Field(96, ge=1)
    """Number of answers in an iteration. Unless set: fewer, from 16, where the cycle's minutes are
    too few."""
    live_share: float = Field(0.25, ge=0, le=1)
    """Largest share of off-policy answers in an iteration: served earlier and rated by people."""
    max_staleness: int = Field(4, ge=0)
    """Largest age of off-policy answers, in policy versions."""
    epochs: int = Field(2, ge=1)
    """Number of passes over the answers of an iteration."""
    minibatches: int = Field(2, ge=1)
    """Number of optimizer steps in a pass. Unless set: 1 for large models."""
    max_tokens: int = Field(112, ge=1)
    """Largest number of tokens in a sampled answer. Unless set: the 95th percentile of the recorded
    answers where it is higher; until 20 are recorded, 64 for large models."""
    max_prompt_tokens: int = Field(256, ge=1)
    """Number of tokens above which a prompt is left out. Unless set: the 95th percentile of the
    recorded prompts where it is higher."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature. Unless set: the model's own default."""
    learning_rate: float = Field(3e-4, gt=0)
    """Learning rate of the policy. Unless set: 5e-4 for adapters, 2e-5 for large models in full."""
    separate_critic: bool = False
    """Use a second model as the critic, not a head on the policy."""
    critic_learning_rate: float = Field(4e-4, gt=0)
    """Learning rate of the critic. Unless set: 5e-4 for adapters, 2e-5 for large models in full."""
    clip_norm: float = Field(1.0, gt=0)
    """Bound on the norm of the gradient, of policy and critic each."""
    kl_coef: float = Field(0.1, ge=0)
    """Coefficient of the KL penalty to the reference policy."""
    kl_target: float | None = Field(None, gt=0)
    """KL in nats per answer that kl_coef is adapted to; kl_coef stays fixed if unset."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount factor per token."""
    lam: float = Field(0.95, ge=0, le=1)
    """Lambda of generalised advantage estimation (GAE)."""
    clip_ratio: float = Field(0.2, gt=0)
    """Largest deviation from 1 of the probability ratio in the loss."""
    clip_value: float = Field(0.2, gt=0)
    """Largest change of a value in the value loss, in units of reward."""
    value_coef: float = Field(0.1, ge=0)
    """Weight of the value loss."""
    importance_cap: float = Field(2.0, gt=0)
    """Upper bound on the importance weights of sampled answers."""
    unfinished_penalty: float = Field(2.0, ge=0)
    """Score penalty of truncated answers, scaled by the initial share of finished answers."""
    text_coef: float = Field(0.15, ge=0)
    """Weight of the pre-training loss (ptx). Unless set: 0.5 on text that the model wrote."""
    text_rows: int = Field(8, ge=1)
    """Number of rows of text in an optimizer step. Unless set: 2 for large models."""
    text_row: int = Field(128, ge=8)
    """Number of tokens in a row of text."""
    micro_tokens: int = Field(4096, ge=1)
    """Largest number of padded tokens in a forward pass. Unless set: as many as an eighth of the
    memory holds, up to 16384 on a GPU."""
    checkpoint_every: int = Field(4, ge=1)
    """Iterations between two saves of the training state. Unless set: 1 for large models."""


class GateSettings(_Frozen):
    """The bounds that a candidate policy must meet to be published."""

    prompts: int = Field(160, ge=2)
    """Largest number of held-out prompts to sample on. Unless set: 48 for large models."""
    min_judge_gain: float = 0.001
    """Lowest accepted gain of the judge over chance, in nats per vote (95% lower bound)."""
    min_win_rate: float = Field(0.5, ge=0, le=1)
    """Lowest accepted win rate against the live version (95% lower bound)."""
    max_kl: float = Field(25.0, gt=0)
    """KL budget: largest accepted KL to the SFT policy, in nats per answer."""
    max_text_nll_increase: float = Field(0.15, gt=0)
    """Largest accepted increase of the held-out text loss, in nats per token."""
    max_unended_increase: float = Field(0.05, ge=0)
    """Largest accepted increase of the share of truncated answers over the live version."""
    max_answer_nll_increase: float = Field(0.5, ge=0)
    """Largest accepted loss of the answers under version 1, over its own, in nats per token."""
    max_sentence_nll_increase: float = Field(0.75, ge=0)
    """Largest accepted loss of an answer's worst sentence under version 1, over its own."""
    max_distinct_decrease: float = Field(0.35, ge=0, le=1)
    """Largest accepted decrease of the share of distinct answers of four, from version 1's."""
    distinct_prompts: int = Field(24, ge=1)
    """Number of prompts on which distinct answers are counted. Unless set: 8 for large models."""


class DuelSettings(_Frozen):
    """The trial of a new adapter against the live version; see `learner.gate.duel`."""

    trials: bool = True
    """Put new adapters on trial; otherwise they go live at once."""
    alpha: float = Field(0.05, gt=0, lt=1)
    """Largest probability that a version which is not better goes live."""
    beta: float = Field(0.05, gt=0, lt=1)
    """Largest probability that a version which is better by the edge is rolled back."""
    edge: float = Field(0.1, gt=0, lt=0.5)
    """Win rate above one half that the trial must detect."""
    max_votes: int = Field(600, ge=1)
    """Number of votes without a decision that roll the version back."""


class LearnerSettings(BaseSettings):
    """All settings of the learner, from arguments or environment variables.

    The variable of a setting in a section is named like PLAUDIT_LEARNER_PPO__KL_COEF. "Unless set"
    gives the default for some models; a model is large above 30 million parameters.
    """

    model_config = SettingsConfigDict(
        env_prefix="PLAUDIT_LEARNER_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )

    dtype: Dtype = "float32"
    """Data type of the forward and backward passes."""
    sampler: SamplerKind = "transformers"
    """Library that samples answers in the learner's process."""
    metrics_host: str = "127.0.0.1"
    """Address that serves the metrics."""
    metrics_port: int = Field(8001, ge=0, le=65535)
    """Port that serves the metrics; 0 serves none."""
    cycle_minutes: float | None = Field(None, gt=0)
    """Minutes that a learning cycle may take. Unless set: 30 on a processor, 20 on GPUs."""
    threads: int = Field(0, ge=0)
    """Number of CPU threads of torch; 0 leaves the choice to torch."""
    processes: int = Field(0, ge=0)
    """Number of processes of a machine that train the policy together; 0 starts one a GPU."""
    nodes: int = Field(0, ge=0)
    """Number of machines that train the policy together; 0: as many as a launcher says, else 1."""
    rendezvous: str = ""
    """HOST:PORT at which the leading machine waits for the others; empty: as a launcher says."""
    join_seconds: float = Field(600.0, gt=0)
    """Seconds that a training run waits for all machines to join."""
    seed: int = 0
    """Seed of all random choices of the learner."""
    min_events: int = Field(100, ge=1)
    """Number of new votes that start a cycle, whatever they say."""
    early_share: float = Field(0.36, gt=0, le=1)
    """Share of min_events from which a cycle starts as soon as the new votes can be predicted. From
    fewer, few candidates pass the gate."""
    settle_seconds: float = Field(5.0, ge=0)
    """Seconds without new records after which a cycle starts."""
    patience_seconds: float = Field(120.0, ge=0)
    """Longest wait in seconds for new records to cease, once there are enough votes."""
    poll_seconds: float = Field(0.5, gt=0)
    """Seconds between two reads of the log."""
    tune: Tune | None = None
    """Train all weights (full) or adapters (lora). Unless set: lora for large models, else full."""
    compiled: bool | None = None
    """Compile layers when adapters are trained in bfloat16. Unless set: for large models only."""
    max_owner_votes: int = Field(6, ge=1)
    """Votes that the users of one API key count for together: in a training set or in a trial."""
    retention_days: float = Field(31, ge=0)
    """Days for which answers without feedback are kept in log and ledger; 0 for no limit. With
    feedback they are always kept. No answer takes feedback after 30 days."""
    retention_gib: float = Field(20, ge=0)
    """Size of the ledger, in GiB, above which the oldest answers without feedback are deleted from
    log and ledger; 0 for no limit."""
    text: tuple[Path, ...] = ()
    """Text files for the pre-training loss (ptx) of a model that Plaudit did not pre-train."""
    lora: LoraSettings = LoraSettings()
    """Adapters."""
    reward: RewardSettings = RewardSettings()
    """Reward model and judge."""
    ppo: PPOSettings = PPOSettings()
    """Training of the policy."""
    gate: GateSettings = GateSettings()
    """Bounds of the gate."""
    duel: DuelSettings = DuelSettings()
    """Trials of new adapters."""

    @property
    def tuning(self) -> str:
        """Which weights are trained, in words; saved weights of another tuning do not fit."""
        if self.tune == "lora":
            return f"lora of rank {self.lora.rank}, alpha {self.lora.alpha}"
        return "full"

    def for_model(
        self, parameters: int, temperature: float, *, own_text: bool = False
    ) -> "LearnerSettings":
        """Return these settings with defaults that fit a model; explicitly set values are kept.

        A model above `LARGE_MODEL_PARAMETERS` is tuned by adapters, compiled, and trained in
        fewer steps. `learner.sizing` chooses what depends on traffic, memory and time.

        Args:
            parameters: Number of parameters of the model.
            temperature: Default temperature at which the model is served.
            own_text: Whether the model itself wrote the text of the pre-training loss. The loss
                is then the divergence from the reference policy. It has no sampling noise, so
                it gets a larger weight.

        """
        tune, large = tune_for(parameters, self.tune), parameters > LARGE_MODEL_PARAMETERS
        reward, gate = self.reward, self.gate
        ppo = _with_defaults(self.ppo, temperature=temperature)
        if own_text:
            ppo = _with_defaults(ppo, text_coef=OWN_TEXT_COEF)
        if large:
            reward = _with_defaults(reward, **_LARGE_MODEL_REWARD)
            ppo = _with_defaults(ppo, **_LARGE_MODEL_PPO)
            gate = _with_defaults(gate, **_LARGE_MODEL_GATE)
        if tune == "lora":
            reward = _with_defaults(reward, learning_rate=REWARD_LORA_RATE)
            ppo = _with_defaults(ppo, learning_rate=LORA_RATE, critic_learning_rate=LORA_RATE)
        compiled = large if self.compiled is None else self.compiled
        return self.model_copy(
            update={"tune": tune, "compiled": compiled, "reward": reward, "ppo": ppo, "gate": gate}
        )

    def with_ppo(self, **values: int) -> "LearnerSettings":
        """Return these settings with `values` for what was not set explicitly in section `ppo`."""
        return self.model_copy(update={"ppo": _with_defaults(self.ppo, **values)})


_LARGE_MODEL_REWARD: Final = {"learning_rate": 2e-5, "epochs": 2, "batch": 8, "normalise_on": 32}
_LARGE_MODEL_PPO: Final = {
    "minibatches": 1,
    "max_tokens": 64,
    "learning_rate": 2e-5,
    "critic_learning_rate": 2e-5,
    "text_rows": 2,
    "checkpoint_every": 1,
}
_LARGE_MODEL_GATE: Final = {"prompts": 48, "distinct_prompts": 8}


def tune_for(parameters: int, wanted: Tune | None = None) -> Tune:
    """Return `wanted`, or else how a model of this size is tuned."""
    return wanted or ("lora" if parameters > LARGE_MODEL_PARAMETERS else "full")


def _with_defaults(section: _Section, **values: Any) -> _Section:
    """Return the section with these values for the fields that were not set explicitly.

    `model_fields_set` stays what was set explicitly.
    """
    chosen = {k: v for k, v in values.items() if k not in section.model_fields_set}
    copied = section.model_copy(update=chosen)
    copied.model_fields_set.intersection_update(section.model_fields_set)
    return copied
