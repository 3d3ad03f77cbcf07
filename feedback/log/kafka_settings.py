"""Settings of the connection to Kafka."""

from typing import Any, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class KafkaSettings(BaseSettings):
    """Settings of the connection to Kafka; environment variables PLAUDIT_KAFKA_*."""

    model_config = SettingsConfigDict(env_prefix="PLAUDIT_KAFKA_", frozen=True, extra="forbid")

    servers: str = Field(
        "", description="Comma-separated HOST:PORT of some brokers; empty: use SQLite."
    )
    prefix: str = Field("plaudit", description="Prefix of the topic names.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Protocol of the connections to brokers."
    )
    sasl_mechanism: str | None = Field(None, description="SASL mechanism, for example PLAIN.")
    sasl_plain_username: str | None = Field(None, description="User name for SASL.")
    sasl_plain_password: SecretStr | None = Field(None, description="Password for SASL.")
    ssl_cafile: str | None = Field(None, description="File of the CA certificates.")
    ssl_certfile: str | None = Field(None, description="File of the client certificate.")
    ssl_keyfile: str | None = Field(None, description="File of the client's private key.")
    ssl_password: SecretStr | None = Field(None, description="Password of the private key.")
    replication: int | None = Field(
        None, ge=1, description="Replication factor of new topics; unset: up to three."
    )
    connect_seconds: float = Field(20.0, gt=0, description="Timeout of connecting, in seconds.")
    append_seconds: float = Field(15.0, gt=0, description="Timeout of an append, in seconds.")
    read_seconds: float = Field(15.0, gt=0, description="Timeout of a read, in seconds.")
    metadata_seconds: float = Field(
        30.0, gt=0, description="Interval at which new partitions are discovered, in seconds."
    )
    max_pending: int = Field(
        10_000, ge=1, description="Largest number of pending records; more are refused."
    )

    def client(self) -> dict[str, Any]:
        """Return the options that all clients of kafka-python accept."""
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
