"""Run contests between worker processes, of which only one works at a time.

All workers are started and warmed up. Then each takes one turn per round, in an order that rotates
from round to round, so that other load on the machine affects all of them equally. A worker
measures its own turns.
"""

import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Contestant:
    """A worker process.

    Attributes:
        name: Name in the tables.
        module: Module of `bench` that is run as a program.
        spec: Specification of the work, passed to the module as its only argument, in JSON.
        packages: Packages of a separate environment; if empty, the current environment is used.

    """

    name: str
    module: str
    spec: dict[str, Any]
    packages: tuple[str, ...] = ()

    def command(self) -> list[str]:
        python = [sys.executable]
        if self.packages:
            options = [part for package in self.packages for part in ("--with", package)]
            python = ["uv", "run", "--no-project", "--isolated", "--python", sys.executable]
            python += [*options, "python"]
        return [*python, "-m", f"bench.{self.module}", json.dumps(self.spec)]


@dataclass(slots=True)
class Result:
    """What a worker reported: facts about itself, and the figures of each turn."""

    facts: dict[str, Any]
    turns: list[dict[str, Any]] = field(default_factory=list)

    def median(self, figure: str = "seconds") -> float:
        return statistics.median(turn[figure] for turn in self.turns)

    def least(self, figure: str = "seconds") -> float:
        return min(float(turn[figure]) for turn in self.turns)


def beside_trl(version: str) -> tuple[str, ...]:
    """Return the packages of an environment for TRL with this one's torch and transformers."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    return (
        f"trl=={version}",
        *(f"{name}=={versions[name].partition('+')[0]}" for name in versions),
    )


def contest(
    contestants: Sequence[Contestant], *, rounds: int, warm_up: int, threads: int
) -> dict[str, Result]:
    """Run a contest and return the results by name.

    A worker that fails is left out, and the last line of its error output is printed.
    """
    results: dict[str, Result] = {}
    with ExitStack() as stack:
        workers = {
            c.name: stack.enter_context(_Worker(c, threads)) for c in contestants
        }  # all start at once
        for name, worker in workers.items():
            if (facts := worker.read()) is not None:
                results[name] = Result(facts)
                print(f"{name}: {', '.join(f'{k} {v}' for k, v in facts.items())}", flush=True)
        for number in range(-warm_up, rounds):
            names = list(results)
            first = number % max(1, len(names))
            for name in names[first:] + names[:first]:
                figures = workers[name].turn()
                if figures is None:
                    del results[name]
                elif number >= 0:
                    results[name].turns.append(figures)
        for name in workers.keys() - results.keys():
            print(f"{name} failed: {workers[name].last_error()}")
    return results


class _Worker:
    def __init__(self, contestant: Contestant, threads: int) -> None:
        self._log: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in __exit__)
        count = str(threads)
        environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"} | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": count,
            "MKL_NUM_THREADS": count,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        self._process = subprocess.Popen(
            contestant.command(),
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._log.close()

    def read(self) -> dict[str, Any] | None:
        """Return the worker's next report; None if it has exited."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        report: dict[str, Any] | None = json.loads(line) if line else None
        return report

    def turn(self) -> dict[str, Any] | None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        return self.read()

    def last_error(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return lines[-1] if lines else "no error output"
