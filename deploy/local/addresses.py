"""Addresses to listen on (IPv4 and IPv6): their URLs, and whether they are free."""

import socket
from typing import Final

LOCAL: Final = "127.0.0.1"
_LOOPBACK_OF: Final = {"0.0.0.0": LOCAL, "::": "::1"}


def url_of(host: str, port: int) -> str:
    """Return the URL of a host, given by name or address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def local_url(host: str, port: int) -> str:
    """Return the URL at which this machine reaches a server that listens on `host`."""
    return url_of(_LOOPBACK_OF.get(host, host), port)


def port_problem(host: str, port: int) -> str | None:
    """Return why this machine cannot listen on an address, or None if it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return f"cannot listen on {host}:{port}: {error.strerror}"
    return None
