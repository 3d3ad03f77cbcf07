"""Settings of `plaudit up`, from arguments or from environment variables PLAUDIT_*."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

DEFAULT_HOME = Path(".plaudit")
VLLM_ARGUMENTS = "PLAUDIT_SERVING_VLLM_ARGUMENTS"


class UpSettings(BaseSettings):
    """Settings of `plaudit up`, which runs all of Plaudit on one machine."""

    model_config = SettingsConfigDict(env_prefix="PLAUDIT_", frozen=True, extra="forbid")

    home: Path = Field(DEFAULT_HOME, description="Home folder: models, log, registry, secret.")
    host: str = Field("127.0.0.1", description="Address that the endpoint binds to.")
    port: int = Field(8000, ge=1, le=65535, description="Port of the endpoint.")
    learner_port: int = Field(8001, ge=1, le=65535, description="Port of the learner's metrics.")
    local_role: Literal["user", "annotator", "operator"] = Field(
        "operator",
        description="Role of everybody who reaches the endpoint while there are no API keys; with "
        "a proxy on this machine that may be anybody.",
    )
    model: str = Field(
        "default",
        description="First policy: 'default', 'smollm2', or the folder or id of a Hugging Face "
        "model.",
    )
    from_scratch: bool = Field(
        False,
        description="Train a small default model from random weights instead of the shipped one.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Number format; auto is the fastest on this processor."
    )
    tune: Literal["full", "lora"] | None = Field(
        None,
        description="Train all weights (full) or LoRA adapters (lora); none: adapters for large "
        "models.",
    )
