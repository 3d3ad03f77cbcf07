"""Time from the command to the first streamed answer: `plaudit up` beside a bare vLLM server.

    uv run python -m bench.start_up [--rounds 3] [--eager]

Both serve the default model on this machine's best number format. The contenders take turns. Each
round starts every contender twice: cold, with empty caches of compiled code, and warm, with the
caches that the cold start left. Packages are installed and Python's bytecode is cached for both.
`plaudit up` starts from an empty home in either case. With --eager, the engine of `plaudit up`
does not compile; bare vLLM always does, as is its default.

The steps are the lines that a contender printed, each with the seconds since its start.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import httpx

from bench.servers import NO_USAGE, bare_vllm, free_port, machine
from deploy.sizing.models import default_model
from deploy.sizing.processor import best_dtype, cpu_flags

_LIMIT_SECONDS = 600.0
_CHAT = {
    "model": "plaudit",
    "messages": [{"role": "user", "content": "What is a bicycle?"}],
    "stream": True,
    "max_tokens": 64,
}


@dataclass
class Start:
    """One start of a contender.

    Attributes:
        seconds: Seconds from the command to the first streamed token.
        lines: What it printed, with the seconds since its start.

    """

    seconds: float = float("nan")
    lines: list[tuple[float, str]] = field(default_factory=list)


def first_token(url: str, process: subprocess.Popen[str]) -> None:
    """Wait until a streamed chat yields its first text."""
    deadline = time.monotonic() + _LIMIT_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server exited with code {process.returncode}")
        with (
            suppress(httpx.HTTPError),
            httpx.stream("POST", f"{url}/v1/chat/completions", json=_CHAT, timeout=60) as answer,
        ):
            for line in answer.iter_lines():
                if not line.startswith("data: {"):
                    continue
                choices = json.loads(line.removeprefix("data: ")).get("choices") or [{}]
                if choices[0].get("delta", {}).get("content"):
                    return
        time.sleep(0.1)
    raise TimeoutError(f"no token within {_LIMIT_SECONDS:.0f} s")


def start(command: list[str], port: int, cache: Path, **environment: str) -> Start:
    """Start a server, wait for its first token, and end it."""
    caches = {"VLLM_CACHE_ROOT": cache / "vllm", "TORCHINDUCTOR_CACHE_DIR": cache / "inductor"}
    begun = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **NO_USAGE, **{k: str(v) for k, v in caches.items()}, **environment},
        start_new_session=True,
    )
    found = Start()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            found.lines.append((time.monotonic() - begun, line.rstrip()))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        first_token(f"http://127.0.0.1:{port}", process)
        found.seconds = time.monotonic() - begun
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        reader.join(5)
    return found


def start_plaudit(cache: Path, dtype: str, *, eager: bool) -> Start:
    """Start `plaudit up` on an empty home."""
    port, learner_port = free_port(), free_port()
    with TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "deploy.commands.main", "up", "--home", f"{folder}/home"),
            *("--port", str(port), "--learner-port", str(learner_port), "--dtype", dtype),
        ]
        extra = {"PLAUDIT_SERVING_ENFORCE_EAGER": "1"} if eager else {}
        return start(command, port, cache, **extra)


def start_vllm(cache: Path, dtype: str) -> Start:
    """Start vLLM's own server with the engine arguments that Plaudit uses."""
    port = free_port()
    return start(bare_vllm(default_model(), port, dtype), port, cache)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--eager", action="store_true", help="also `plaudit up` without compiling")
    options = parser.parse_args()
    print(machine())
    dtype = best_dtype(cpu_flags())
    contenders: dict[str, Callable[[Path], Start]] = {
        "bare vLLM": lambda cache: start_vllm(cache, dtype),
        "plaudit up": lambda cache: start_plaudit(cache, dtype, eager=False),
    }
    if options.eager:
        contenders["plaudit up, eager"] = lambda cache: start_plaudit(cache, dtype, eager=True)
    times: dict[tuple[str, str], list[float]] = {}
    for round_number in range(options.rounds):
        for name, run in contenders.items():
            with TemporaryDirectory() as cache:
                for state in ("cold", "warm"):
                    found = run(Path(cache))
                    times.setdefault((name, state), []).append(found.seconds)
                    print(
                        f"round {round_number + 1}, {name}, {state}: {found.seconds:.1f} s",
                        flush=True,
                    )
                    if round_number == 0:
                        for seconds, line in found.lines:
                            print(f"    {seconds:6.1f}  {line[:100]}")
    print(f"\n{'seconds to the first token':28}  median  minimum  ratio to bare vLLM (medians)")
    for (name, state), measured in times.items():
        middle = median(measured)
        ratio = middle / median(times["bare vLLM", state])
        print(f"{name + ', ' + state:28}  {middle:6.1f}  {min(measured):7.1f}  {ratio:.2f}")


if __name__ == "__main__":
    main()
