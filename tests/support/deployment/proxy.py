"""Checks of the proxy's configuration: its syntax, its limits, and where it sends requests."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from serving.settings import ServingSettings
from tests.support.deployment.names import port_of

FILE: Final = Path("proxy", "nginx.conf")
_TOKEN: Final = re.compile(
    r"""\s+|\#[^\n]*|("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[{};]|[^\s{};"']+)"""
)
# What each limit must be, by the setting of serving that has the same meaning.
_LIMITS: Final = {
    "limit_conn all": ("max_connections", ""),
    "limit_conn address": ("max_connections_per_address", ""),
    "client_header_timeout": ("head_timeout_seconds", "s"),
    "client_body_timeout": ("body_timeout_seconds", "s"),
    "keepalive_timeout": ("idle_timeout_seconds", "s"),
    "send_timeout": ("write_timeout_seconds", "s"),
    "client_max_body_size": ("max_body_bytes", ""),
}


@dataclass
class Directive:
    """A directive of nginx, with those in its block."""

    words: list[str]
    block: "list[Directive] | None" = None


@dataclass
class _Reader:
    tokens: list[str] = field(default_factory=list)

    def read(self, text: str) -> list[Directive]:
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                line = text[:position].count("\n") + 1
                raise ValueError(f"line {line}: a quote is not closed")
            position = match.end()
            if match[1]:
                self.tokens.append(match[1])
        found = self._block()
        if self.tokens:
            raise ValueError("a '}' too many")
        return found

    def _block(self) -> list[Directive]:
        found: list[Directive] = []
        words: list[str] = []
        while self.tokens:
            token = self.tokens[0]
            if token == "}":
                break
            self.tokens.pop(0)
            if token not in ("{", ";"):
                words.append(token)
                continue
            if not words:
                raise ValueError(f"'{token}' without a directive")
            found.append(Directive(words, self._inner() if token == "{" else None))
            words = []
        if words:
            raise ValueError(f"'{' '.join(words)}' has no ';'")
        return found

    def _inner(self) -> list[Directive]:
        block = self._block()
        if not self.tokens:
            raise ValueError("a '{' is not closed")
        self.tokens.pop(0)
        return block


def parse(text: str) -> list[Directive]:
    """Return the directives of a configuration.

    Raises:
        ValueError: Its syntax is wrong.

    """
    return _Reader().read(text)


def _all(directives: list[Directive]) -> Iterator[Directive]:
    for directive in directives:
        yield directive
        yield from _all(directive.block or [])


def proxy_problems(deploy: Path) -> list[str]:
    """Check the proxy's configuration against nginx's syntax, the settings and the Compose file."""
    file = deploy / FILE
    try:
        directives = list(_all(parse(file.read_text())))
    except ValueError as error:
        return [f"{FILE}: {error}"]
    found: dict[str, list[str]] = {}
    for directive in directives:
        name, *values = directive.words
        if name == "server" and directive.block is not None:
            continue  # as opposed to an address of an upstream
        if name == "limit_conn":
            name, *values = f"{name} {values[0]}", *values[1:]
        found[name] = values
    problems = []
    for name, (setting, unit) in _LIMITS.items():
        wanted = f"{ServingSettings.model_fields[setting].default:g}{unit}"
        if setting == "max_body_bytes":
            wanted = str(ServingSettings.model_fields[setting].default)
        if found.get(name) != [wanted]:
            problems.append(f"{FILE}: {name} is {found.get(name)}, but {setting} is {wanted}")
    services = yaml.safe_load((deploy / "compose.yaml").read_text())["services"]
    return problems + _address_problems(found, services) + _nginx_problems(file)


def _address_problems(found: dict[str, list[str]], services: dict[str, Any]) -> list[str]:
    """Check that the proxy sends requests to serving, and that its own port is published."""
    problems = []
    serving = f"serving:{port_of(services['serving']['command'])}"
    if found.get("server") != [serving]:
        problems.append(f"{FILE}: nothing listens on {found.get('server')}")
    published = {port.split(":")[-1] for port in services["proxy"]["ports"]}
    if published != {found["listen"][0]}:
        problems.append(f"{FILE}: it listens on {found['listen'][0]}, not on {published}")
    return problems


def _nginx_problems(file: Path) -> list[str]:
    """Return what nginx itself says, where it is installed."""
    nginx = shutil.which("nginx")
    if nginx is None:
        return []
    done = subprocess.run([nginx, "-t", "-c", file], capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()  # names of other containers and certificates are not there
    return [line for line in lines if "[emerg]" in line and "unknown directive" in line]
