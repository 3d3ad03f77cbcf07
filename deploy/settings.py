"""Settings of `plaudit up`: arguments, else environment variables PLAUDIT_*."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

DEFAULT_HOME = Path(".plaudit")


class UpSettings(BaseSettings):
    """How all of Plaudit runs on one machine."""

    model_config = SettingsConfigDict(env_prefix="PLAUDIT_", frozen=True, extra="forbid")

    home: Path = Field(DEFAULT_HOME, description="Folder of models, log, registry and secret.")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    learner_port: int = Field(8001, ge=1, le=65535, description="The learner's metrics.")
    model: str = Field("default", description="default, smollm2, or a Hugging Face folder or id.")
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    tune: Literal["full", "lora"] | None = Field(
        None, description="All weights or adapters; none goes by the model's size."
    )
