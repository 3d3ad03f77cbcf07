"""Addresses to listen on, of IPv4 and IPv6: whether they are free, and how they stand in a URL."""

import socket
from typing import Final

LOCAL: Final = "127.0.0.1"
_LOCAL: Final = {"0.0.0.0": LOCAL, "::": "::1"}


def url_of(host: str, port: int) -> str:
    """Return the URL of a host by name or address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def local_url(host: str, port: int) -> str:
    """Return the URL by which this machine reaches what listens on `host`."""
    return url_of(_LOCAL.get(host, host), port)


def port_problem(host: str, port: int) -> str | None:
    """Say why this machine cannot listen there; None where it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return f"cannot listen on {host}:{port}: {error.strerror}"
    return None
