"""Settings of the learner. Importing this loads no torch."""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

Dtype = Literal["float32", "bfloat16"]
# Above this size a model is fine-tuned in its upper layers only, with smaller batches.
LARGE: Final = 30_000_000


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PretrainSettings(_Frozen):
    """Shape of the default model, and how it is trained from random weights."""

    vocabulary: int = Field(2048, ge=300)
    hidden: int = Field(192, ge=8)
    layers: int = Field(4, ge=1)
    heads: int = Field(6, ge=1)
    feed_forward: int = Field(512, ge=8)
    context: int = Field(512, ge=32)
    tokens: int = Field(1_700_000, ge=1)
    row: int = Field(256, ge=8, description="Tokens in a packed row")
    batch_tokens: int = Field(2048, ge=8)
    learning_rate: float = Field(4e-3, gt=0)
    warmup_ratio: float = Field(0.05, ge=0, le=1)
    weight_decay: float = Field(0.05, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    checkpoint_seconds: float = Field(15.0, ge=0)
    seed: int = 0


class SftSettings(_Frozen):
    """Supervised fine-tuning on demonstrations: loss on the response only."""

    tokens: int = Field(1_000_000, ge=1)
    row: int = Field(256, ge=8)
    batch_tokens: int = Field(2048, ge=8)
    learning_rate: float = Field(2e-3, gt=0)
    warmup_ratio: float = Field(0.05, ge=0, le=1)
    weight_decay: float = Field(0.05, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    checkpoint_seconds: float = Field(15.0, ge=0)
    seed: int = 0
