"""Contests: each contestant is a process of its own, and only one of them works at a time.

All are started and warmed up; then every round gives each a turn, in an order that moves on by one
from round to round, so that what else the machine does hits all of them alike. A contestant
measures its own turn.
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
    """A worker.

    Attributes:
        name: In the tables.
        module: Of `bench`, run as a program with `spec` as its one argument.
        packages: What its own environment holds; empty runs it in this one.

    """

    name: str
    module: str
    spec: dict[str, Any]
    packages: tuple[str, ...] = ()

    def command(self) -> list[str]:
        python = [sys.executable]
        if self.packages:
            wanted = [part for package in self.packages for part in ("--with", package)]
            python = ["uv", "run", "--no-project", "--isolated", "--python", sys.executable]
            python += [*wanted, "python"]
        return [*python, "-m", f"bench.{self.module}", json.dumps(self.spec)]


@dataclass(slots=True)
class Result:
    """What a contestant said: facts about itself, and the figures of each turn."""

    facts: dict[str, Any]
    turns: list[dict[str, Any]] = field(default_factory=list)

    def median(self, figure: str = "seconds") -> float:
        return statistics.median(turn[figure] for turn in self.turns)

    def least(self, figure: str = "seconds") -> float:
        return min(float(turn[figure]) for turn in self.turns)


def beside_trl(version: str) -> tuple[str, ...]:
    """Return the packages of an environment for TRL, with our torch and transformers."""
    own = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    return (f"trl=={version}", *(f"{name}=={own[name].partition('+')[0]}" for name in own))


def contest(
    contestants: Sequence[Contestant], *, rounds: int, warm_up: int, threads: int
) -> dict[str, Result]:
    """Run a contest; one that cannot take part is left out, and the last it said is printed."""
    results: dict[str, Result] = {}
    with ExitStack() as stack:
        workers = {
            c.name: stack.enter_context(_Worker(c, threads)) for c in contestants
        }  # all start at once, and are waited for one by one
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
            print(f"{name} did not run: {workers[name].last_words()}")
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
        """Return what it says next; None if it ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        said: dict[str, Any] | None = json.loads(line) if line else None
        return said

    def turn(self) -> dict[str, Any] | None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        return self.read()

    def last_words(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return lines[-1] if lines else "it said nothing"
