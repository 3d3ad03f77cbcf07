"""How to reach Kafka."""

from typing import Any, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class KafkaSettings(BaseSettings):
    """How to reach Kafka; environment variables PLAUDIT_KAFKA_*."""

    model_config = SettingsConfigDict(env_prefix="PLAUDIT_KAFKA_", frozen=True, extra="forbid")

    servers: str = Field("", description="HOST:PORT of some brokers, with commas; none: SQLite.")
    prefix: str = Field("plaudit", description="Of the topics' names.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_plain_username: str | None = None
    sasl_plain_password: SecretStr | None = None
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_password: SecretStr | None = None
    replication: int | None = Field(None, ge=1, description="Of new topics; none: up to three.")
    connect_seconds: float = Field(20.0, gt=0, description="Longest wait for a first answer.")
    append_seconds: float = Field(15.0, gt=0, description="Longest wait for an append.")
    read_seconds: float = Field(15.0, gt=0, description="Longest wait for a read.")
    metadata_seconds: float = Field(30.0, gt=0, description="How soon new partitions are used.")
    max_pending: int = Field(10_000, ge=1, description="Records under way; more are refused.")

    def client(self) -> dict[str, Any]:
        """Return the options that every client of kafka-python takes."""
        secret = {
            "sasl_plain_password": self.sasl_plain_password,
            "ssl_password": self.ssl_password,
        }
        plain = {
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.sasl_plain_username,
            "ssl_cafile": self.ssl_cafile,
            "ssl_certfile": self.ssl_certfile,
            "ssl_keyfile": self.ssl_keyfile,
            **{name: value and value.get_secret_value() for name, value in secret.items()},
        }
        return {
            "bootstrap_servers": [s.strip() for s in self.servers.split(",")],
            "security_protocol": self.security_protocol,
            "bootstrap_timeout_ms": int(self.connect_seconds * 1000),
            "reconnect_backoff_max_ms": 1000,  # its default, 30 s, outlasts most outages
            **{name: value for name, value in plain.items() if value is not None},
        }
