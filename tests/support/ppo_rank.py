"""Run PPO on a tiny model in one process of torchrun; write figures and weights."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from learner.errors import Interrupted
from learner.models.ranks import join_ranks
from learner.ppo.trainer import Iteration, run_ppo
from tests.support.tiny import TINY_PPO, ppo_inputs, tiny_model


def main(out: Path, iterations: int, stop_after: int) -> None:
    """Train, and write figures and weights; stop without them after `stop_after` iterations."""
    torch.set_num_threads(1)
    settings = TINY_PPO.model_copy(update={"iterations": iterations, "live_share": 0.5})
    found: list[Iteration] = []

    def record(iteration: Iteration) -> None:
        if len(found) == stop_after:
            raise Interrupted
        found.append(iteration)

    with join_ranks() as ranks:
        try:
            policy = run_ppo(
                ppo_inputs(tiny_model()),
                settings,
                seed=5,
                state=out / "state",
                on_iteration=record,
                ranks=ranks,
            )
        except Interrupted:
            return
        if ranks.rank == 0:
            torch.save(policy.state_dict(), out / f"weights-{ranks.size}.pt")
            figures = json.dumps([asdict(iteration) for iteration in found])
            (out / f"figures-{ranks.size}.json").write_text(figures)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
