"""Two processes under torchrun train like one, and resume a run of another process count."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.timeout(600)


def train(out: Path, processes: int, *, stop_after: int = -1) -> None:
    """Run `tests.support.ppo_rank` under torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["torch.distributed.run", "--nproc-per-node", str(processes)]
    launch += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    script = ["-m", "tests.support.ppo_rank", str(out), "3", str(stop_after)]
    subprocess.run(
        [sys.executable, "-m", *launch, *script],
        check=True,
        timeout=500,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        cwd=Path(__file__).parents[3],
    )


@pytest.fixture(scope="module")
def single_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one")
    train(out, 1)
    return out


def assert_equal(found: Path, single_process: Path, processes: int) -> None:
    found_figures = json.loads((found / f"figures-{processes}.json").read_text())
    for found_i, expected_i in zip(
        found_figures,
        json.loads((single_process / "figures-1.json").read_text())[-len(found_figures) :],
        strict=True,
    ):
        assert found_i == pytest.approx(expected_i, rel=1e-3, abs=1e-5)
    weights = [
        torch.load(p) for p in (found / f"weights-{processes}.pt", single_process / "weights-1.pt")
    ]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=1e-4, rtol=1e-3)


def test_two_processes_train_like_one(single_process: Path, tmp_path: Path) -> None:
    train(tmp_path, 2)
    assert_equal(tmp_path, single_process, 2)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_processes_can_resume(
    single_process: Path, tmp_path: Path, before: int, after: int
) -> None:
    train(tmp_path, before, stop_after=2)
    assert (tmp_path / "state").is_dir()
    train(tmp_path, after)
    assert_equal(tmp_path, single_process, after)
