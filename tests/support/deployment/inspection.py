"""A learning state, servers and helpers for the tests of `plaudit doctor` and `status`."""

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from rich.console import Console

from deploy.inspection.findings import Finding
from deploy.inspection.observe import Status
from deploy.inspection.screen import screen


def levels(*findings: Finding) -> list[str]:
    """Return the levels of findings, after checking that only `ok` has no advice."""
    for finding in findings:
        assert bool(finding.advice) == (finding.level != "ok"), finding
    return [finding.level for finding in findings]


def screen_text(status: Status, now: float = 1000.0) -> str:
    """Return the screen of a status as text."""
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(screen(status, now))
    return console.export_text()


LEARNING: dict[str, Any] = {
    "live": 3,
    "on_trial": 4,
    "held": True,
    "loop": {"stage": "ppo", "cycle": 5, "since": 910.0, "iteration": 3, "iterations": 14},
    "votes": {"total": 12, "waiting": 5, "kinds": {"comparison": 10, "rating": 2}},
    "versions": [
        {
            "version": 3,
            "parent": 2,
            "state": "live",
            "votes": 7,
            "figures": {"win_rate": 0.81, "win_rate_over_first": 0.93, "text_nll": 2.302585},
        },
        {"version": 4, "parent": 3, "state": "on_trial", "votes": 5, "figures": {}},
    ],
    "refused": [{"parent": 2, "created": 400.0, "reasons": ["kl", "text"]}],
    "replicas": {"replica-0": 3, "replica-1": 3},
}


class StatusHandler(BaseHTTPRequestHandler):
    """Answer like a server that requires the API key 'right'."""

    def do_GET(self) -> None:
        allowed = self.path == "/readyz" or self.headers["Authorization"] == "Bearer right"
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(json.dumps(LEARNING if allowed else {}).encode())

    def log_message(self, *_: object) -> None: ...


@contextmanager
def http_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[HTTPServer]:
    """Serve requests in a thread, on a free port of this machine."""
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
