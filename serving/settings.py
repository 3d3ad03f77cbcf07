"""Settings of the serving process: arguments, else environment variables PLAUDIT_SERVING_*."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from feedback.api.requests import COMPLETION_BODY_BYTES


class ServingSettings(BaseSettings):
    """How one replica serves."""

    model_config = SettingsConfigDict(
        env_prefix="PLAUDIT_SERVING_", frozen=True, extra="forbid", env_file=None
    )

    home: Path = Field(description="Folder of log, registry and secret.")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    replica: str = Field("replica-0", description="This replica's name in policy events.")
    model_name: str = Field("plaudit", description="Name clients may give as `model`.")
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_model_len: int | None = Field(None, ge=16, description="Context length, in tokens.")
    max_num_seqs: int = Field(64, ge=1, description="Answers decoded at once.")
    kv_cache_gib: float = Field(0.5, gt=0, description="Key-value cache on CPU, in GiB.")
    gpu_memory_share: float = Field(0.5, gt=0, lt=1, description="vLLM's share of a GPU.")
    lora_rank: int = Field(
        0, ge=0, le=512, description="Largest rank of adapters; 0: full weights alone are served."
    )
    duel_share: float = Field(
        0.5, ge=0, le=1, description="Of chats with several choices, while a policy is on trial."
    )
    max_body_bytes: int = Field(COMPLETION_BODY_BYTES, ge=1024, description="Largest request body.")
    strict_recording: bool = Field(
        False, description="Fail an answer whose record the log does not take; use no outbox."
    )
    poll_seconds: float = Field(0.5, gt=0, description="How often policy events are read.")
    swap_timeout_seconds: float = Field(120, gt=0, description="Longest wait for one swap step.")
    enforce_eager: bool = Field(False, description="Start sooner, decode slower.")
