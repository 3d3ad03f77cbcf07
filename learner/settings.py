"""Settings of the learner. Importing this loads no torch."""

from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Dtype = Literal["float32", "bfloat16"]
SamplerKind = Literal["transformers", "vllm"]
Tune = Literal["full", "lora"]
# Above this many parameters a model is tuned by adapters, with smaller batches. Each trained copy
# of all the weights, with gradients and optimizer, would take 16 bytes a parameter.
LARGE_MODEL_PARAMETERS: Final = 30_000_000
LORA_RATE: Final = 5e-4  # learning rate of a policy's adapters, whatever the size of the model
OWN_TEXT_COEF: Final = 0.5  # of the divergence from what the model wrote itself
REWARD_LORA_RATE: Final = 2e-4  # of a reward model's; temperature 1.3 after 280 opinions


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_Section = TypeVar("_Section", bound=_Frozen)


class PretrainSettings(_Frozen):
    """Shape of the default model, and how it is trained from random weights."""

    vocabulary: int = Field(2048, ge=300)
    hidden: int = Field(192, ge=8)
    layers: int = Field(4, ge=1)
    heads: int = Field(3, ge=1)
    feed_forward: int = Field(512, ge=8)
    context: int = Field(512, ge=32)
    initial_deviation: float = Field(0.05, gt=0, description="Of the random weights")
    tokens: int = Field(700_000, ge=1)
    row: int = Field(256, ge=8, description="Tokens in a packed row")
    batch_tokens: int = Field(1024, ge=8)
    learning_rate: float = Field(4e-3, gt=0)
    warmup_ratio: float = Field(0.05, ge=0, le=1)
    weight_decay: float = Field(0.05, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    checkpoint_seconds: float = Field(15.0, ge=0)
    seed: int = 0


class SftSettings(_Frozen):
    """Supervised fine-tuning on demonstrations: loss on the response only."""

    tokens: int = Field(550_000, ge=1)
    row: int = Field(256, ge=8)
    batch_tokens: int = Field(1024, ge=8)
    text_share: float = Field(0.2, ge=0, lt=1, description="Rows of text beside conversations")
    learning_rate: float = Field(2e-3, gt=0)
    warmup_ratio: float = Field(0.05, ge=0, le=1)
    weight_decay: float = Field(0.05, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    checkpoint_seconds: float = Field(15.0, ge=0)
    seed: int = 0


class RewardSettings(_Frozen):
    """The reward model and the judge."""

    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    epochs: int = Field(10, ge=1, description="At most; the best by the held-out loss is kept")
    patience: int = Field(3, ge=0, description="Epochs without gain after which it stops")
    batch: int = Field(16, ge=1, description="Opinions in a step")
    clip_norm: float = Field(1.0, gt=0)
    held_out_share: float = Field(0.15, gt=0, lt=1, description="Of prompts, by their hash")
    judge_share: float = Field(0.3, gt=0, lt=1, description="Of the other prompts, by their hash")
    min_train: int = Field(16, ge=1, description="Opinions below which nothing is trained")
    micro_tokens: int = Field(4096, ge=1, description="Padded tokens in one forward pass")
    normalise_on: int = Field(128, ge=2, description="Reference samples for mean 0, deviation 1")


class LoraSettings(_Frozen):
    """Adapters: an update of each linear layer by the product of two thin matrices."""

    rank: int = Field(16, ge=1, le=256, description="Of these matrices")
    alpha: int = Field(32, ge=1, description="The product is scaled by alpha / rank")


class PPOSettings(_Frozen):
    """Proximal policy optimisation against the reward model."""

    iterations: int = Field(14, ge=1)
    rollouts: int = Field(96, ge=1, description="Answers in an iteration")
    live_share: float = Field(0.25, ge=0, le=1, description="Of them, rated before by people")
    max_staleness: int = Field(4, ge=0, description="Versions since a live answer was sampled")
    epochs: int = Field(2, ge=1)
    minibatches: int = Field(2, ge=1)
    max_tokens: int = Field(112, ge=1)
    max_prompt_tokens: int = Field(256, ge=1, description="Longer prompts are left out")
    temperature: float = Field(1.0, gt=0, description="Unless set, the model's own default")
    learning_rate: float = Field(3e-4, gt=0)
    separate_critic: bool = Field(False, description="A model of its own, not a head")
    critic_learning_rate: float = Field(4e-4, gt=0)
    clip_norm: float = Field(1.0, gt=0)
    kl_coef: float = Field(0.1, ge=0)
    kl_target: float | None = Field(None, gt=0, description="Nats in an answer; adapts kl_coef")
    gamma: float = Field(1.0, gt=0, le=1)
    lam: float = Field(0.95, ge=0, le=1)
    clip_ratio: float = Field(0.2, gt=0)
    clip_value: float = Field(0.2, gt=0)
    value_coef: float = Field(0.1, ge=0)
    importance_cap: float = Field(2.0, gt=0)
    unfinished_penalty: float = Field(
        2.0, ge=0, description="Off the score of endless answers, as far as answers end at first"
    )
    text_coef: float = Field(0.15, ge=0, description="Weight of the pre-training loss (ptx)")
    text_rows: int = Field(8, ge=1, description="Rows of text in a minibatch")
    text_row: int = Field(128, ge=8, description="Tokens in such a row")
    micro_tokens: int = Field(4096, ge=1, description="Padded tokens in one forward pass")
    checkpoint_every: int = Field(4, ge=1, description="Iterations")


class GateSettings(_Frozen):
    """What a candidate must show to be published."""

    prompts: int = Field(160, ge=2, description="Held-out prompts, at most")
    min_win_rate: float = Field(0.5, ge=0, le=1, description="Lower bound of the judged win rate")
    max_kl: float = Field(25.0, gt=0, description="Nats in an answer, to the SFT policy")
    max_text_nll_increase: float = Field(0.15, gt=0, description="Nats per token")
    max_unended_increase: float = Field(0.05, ge=0, description="Share of answers without an end")


class DuelSettings(_Frozen):
    """When votes decide between the live version and a candidate; see `learner.gate.duel`."""

    trials: bool = Field(True, description="New adapters go on trial; else they go live at once")
    alpha: float = Field(0.05, gt=0, lt=1, description="Risk that one no better goes live")
    beta: float = Field(0.05, gt=0, lt=1, description="Risk that one better by the edge does not")
    edge: float = Field(0.1, gt=0, lt=0.5, description="Win rate above a half to find out")
    max_votes: int = Field(600, ge=1, description="Then it is rolled back")


class LearnerSettings(BaseSettings):
    """All of the learner's settings; environment variables PLAUDIT_LEARNER_PPO__KL_COEF and so on.

    Attributes:
        min_events: New opinions that start a cycle.
        settle_seconds: A cycle waits until no opinion came for this long ...
        patience_seconds: ... but no longer than this.
        tune: Train all weights, or adapters on frozen ones; None goes by the model's size.
        compiled: Compile the layers under adapters, in bfloat16; None goes by the model's size.
        sampler: What samples answers, in the learner's own process.
        threads: Of torch; 0 leaves torch's own choice.
        processes: That train the policy together, by PyTorch's FSDP2; 0 is one for each GPU.
        text: Text files for the pre-training mix of a model that was not made here.

    """

    model_config = SettingsConfigDict(
        env_prefix="PLAUDIT_LEARNER_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    dtype: Dtype = "float32"
    sampler: SamplerKind = "transformers"
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(8001, ge=0, le=65535, description="0 serves no metrics")
    threads: int = Field(0, ge=0)
    processes: int = Field(0, ge=0)
    seed: int = 0
    min_events: int = Field(100, ge=1)
    settle_seconds: float = Field(5.0, ge=0)
    patience_seconds: float = Field(120.0, ge=0)
    poll_seconds: float = Field(0.5, gt=0)
    tune: Tune | None = None
    compiled: bool | None = None
    text: tuple[Path, ...] = ()
    lora: LoraSettings = LoraSettings()
    reward: RewardSettings = RewardSettings()
    ppo: PPOSettings = PPOSettings()
    gate: GateSettings = GateSettings()
    duel: DuelSettings = DuelSettings()

    @property
    def tuning(self) -> str:
        """What kind of weights is trained, in words; weights of another kind do not fit."""
        if self.tune == "lora":
            return f"lora of rank {self.lora.rank}, alpha {self.lora.alpha}"
        return "full"

    def for_model(
        self, parameters: int, temperature: float, *, own_text: bool = False
    ) -> "LearnerSettings":
        """Return settings that fit a model; what was set by hand stays.

        It is sampled at `temperature`, at which it is served. A model above `LARGE` parameters is
        tuned by adapters, compiled, on fewer and shorter answers.

        Args:
            own_text: The text of the pre-training loss is what the model itself wrote. The loss
                is the divergence from it then, which has no noise and so bears more weight.

        """
        tune = tune_for(parameters, self.tune)
        reward, gate = self.reward, self.gate
        ppo = _with_defaults(self.ppo, temperature=temperature)
        if own_text:
            ppo = _with_defaults(ppo, text_coef=OWN_TEXT_COEF)
        if tune == "lora":
            reward = _with_defaults(reward, learning_rate=REWARD_LORA_RATE)
            ppo = _with_defaults(ppo, learning_rate=LORA_RATE, critic_learning_rate=LORA_RATE)
        if parameters > LARGE_MODEL_PARAMETERS:
            reward = _with_defaults(reward, learning_rate=2e-5, epochs=2, batch=8, normalise_on=32)
            ppo = _with_defaults(
                ppo,
                iterations=12,
                rollouts=16,
                minibatches=1,
                max_tokens=64,
                learning_rate=2e-5,
                critic_learning_rate=2e-5,
                text_rows=2,
                micro_tokens=1024,
                checkpoint_every=1,
            )
            gate = _with_defaults(gate, prompts=48)
        compiled = parameters > LARGE_MODEL_PARAMETERS if self.compiled is None else self.compiled
        return self.model_copy(
            update={
                "tune": tune,
                "compiled": compiled,
                "reward": reward,
                "ppo": ppo,
                "gate": gate,
            }
        )


def tune_for(parameters: int, wanted: Tune | None = None) -> Tune:
    """Return how a model of this size is tuned: as wanted, else by adapters above `LARGE`."""
    return wanted or ("lora" if parameters > LARGE_MODEL_PARAMETERS else "full")


def _with_defaults(section: _Section, **values: Any) -> _Section:
    chosen = {k: v for k, v in values.items() if k not in section.model_fields_set}
    return section.model_copy(update=chosen)
