"""Settings of the serving process, from arguments or PLAUDIT_SERVING_* variables."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from feedback.api.requests import COMPLETION_BODY_BYTES


class ServingSettings(BaseSettings):
    """Settings of one replica."""

    model_config = SettingsConfigDict(
        env_prefix="PLAUDIT_SERVING_", frozen=True, extra="forbid", env_file=None
    )

    home: Path = Field(description="Home folder: log, registry and secret.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    replica: str = Field("replica-0", description="Name of this replica in policy events.")
    model_name: str = Field("plaudit", description="Model name that clients send.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Number format of the weights and activations."
    )
    max_model_len: int | None = Field(
        None,
        ge=16,
        description="Context length, in tokens. Default: the model's, or what fits into memory.",
    )
    max_num_seqs: int | None = Field(
        None,
        ge=1,
        description="Number of answers decoded at once. Default: 64 on a CPU, vLLM's choice for "
        "the GPU on a GPU.",
    )
    kv_cache_gib: float = Field(
        0.5, gt=0, description="Size of the key-value cache on a CPU, in GiB."
    )
    gpu_memory_share: float = Field(
        0.5, gt=0, lt=1, description="Share of the GPU's memory for vLLM."
    )
    costs: str = Field(
        "",
        description="What the model costs on this machine, in words, for the page; "
        "'plaudit up' sets it.",
    )
    vllm_arguments: str = Field(
        "",
        description="Arguments of vLLM's server, as on its command line; they take precedence. "
        "Those that would break recording or swapping are refused.",
    )
    lora_rank: int = Field(
        0, ge=0, le=512, description="Largest rank of adapters; 0 to serve only full weights."
    )
    duel_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of chats with several choices that become duels during a trial.",
    )
    max_body_bytes: int = Field(
        COMPLETION_BODY_BYTES,
        ge=1024,
        description="Largest body of a completion or tokenisation request, in bytes.",
    )
    max_connections: int = Field(
        1000,
        ge=0,
        description="Most open connections; 0 for no limit. Beyond it, the one that has waited "
        "longest for its client gives way; a new one gets 503 if all are being answered.",
    )
    max_connections_per_address: int = Field(
        256,
        ge=0,
        description="The same for each client address (/64 network of IPv6); 0 for no limit, "
        "behind a proxy that has one.",
    )
    head_timeout_seconds: float = Field(
        10, gt=0, description="Longest time until a request's head has arrived, in seconds."
    )
    body_timeout_seconds: float = Field(
        60, gt=0, description="Longest time until its body has arrived after that, in seconds."
    )
    idle_timeout_seconds: float = Field(
        65, gt=0, description="Longest time between two requests of a connection, in seconds."
    )
    write_timeout_seconds: float = Field(
        30, gt=0, description="Longest time in which a client reads nothing of its answer."
    )
    local_role: Literal["user", "annotator", "operator"] = Field(
        "user",
        description="Role of everybody while there are no API keys. 'plaudit up' sets it to its "
        "own setting of this name. Behind a proxy on the same machine, create keys.",
    )
    closed_routes: tuple[Literal["/metrics", "/readyz"], ...] = Field(
        (),
        description="Routes that need an operator's key, of /metrics and /readyz, which otherwise "
        "anybody may read who reaches this server; a JSON list.",
    )
    votes_per_minute: float = Field(
        120,
        ge=0,
        description="Votes per minute that one API key may send, unless it is an operator's or its "
        "users are trusted; 0 for no limit.",
    )
    disk_reserve_gib: float = Field(
        1.0,
        ge=0,
        description="Free space on the home folder's disk, in GiB, below which votes and records "
        "of answers are refused, while chats are still answered; 0 for none.",
    )
    share_prefix_cache: bool = Field(
        False,
        description="Let all API keys share the cache of prompts' beginnings. Faster where keys "
        "send the same ones, but the time of an answer then tells what other keys have sent.",
    )
    media_domains: tuple[str, ...] = Field(
        (),
        description="Host names from which images and other media in messages may be fetched, a "
        "JSON list; none by default, so that nobody can make this server fetch URLs.",
    )
    strict_recording: bool = Field(
        False, description="Fail answers whose record cannot be written; use no outbox."
    )
    poll_seconds: float = Field(
        0.5, gt=0, description="Interval between reads of policy events, in seconds."
    )
    max_keys_age_seconds: float = Field(
        600,
        gt=0,
        description="Longest time without a read of the policy events, in seconds. After it, "
        "requests with API keys are answered 503, since a key may have been revoked.",
    )
    swap_timeout_seconds: float = Field(
        120, gt=0, description="Longest duration of one step of a swap, in seconds."
    )
    enforce_eager: bool = Field(
        False,
        description="Start faster but decode slower, without compiled graphs. `plaudit up` does so "
        "on a CPU unless this is set.",
    )
