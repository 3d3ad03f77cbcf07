"""Run whole learning cycles on a tiny model in processes that can be killed."""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from feedback.log.sqlite_log import SqliteLog
from learner.cycle.service import run
from learner.models.loading import load_tokenizer
from learner.report.contents import Report
from learner.settings import (
    DuelSettings,
    GateSettings,
    LearnerSettings,
    LoraSettings,
    PPOSettings,
    RewardSettings,
)
from protos.checkpoints.folder_registry import FolderRegistry
from tests.support.forks import FORKS
from tests.support.learning import cast_votes, cycle_ended

SETTINGS = LearnerSettings(
    metrics_port=0,
    threads=1,
    min_events=40,
    early_share=1.0,
    settle_seconds=0.0,
    poll_seconds=0.02,
    reward=RewardSettings(
        learning_rate=3e-3, epochs=12, patience=12, batch=8, normalise_on=16, min_train=8
    ),
    ppo=PPOSettings(
        iterations=3,
        rollouts=8,
        max_tokens=6,
        text_rows=2,
        text_row=16,
        checkpoint_every=1,
        micro_tokens=200,
    ),
    gate=GateSettings(
        prompts=8,
        min_judge_gain=-1e6,
        min_win_rate=0.0,
        max_kl=1e6,
        max_text_nll_increase=1e6,
        max_unended_increase=1.0,
        max_answer_nll_increase=1e6,
        max_sentence_nll_increase=1e6,
        max_distinct_decrease=1.0,
    ),
)
LORA = SETTINGS.model_copy(
    update={
        "tune": "lora",
        "lora": LoraSettings(rank=8, alpha=8),
        "reward": SETTINGS.reward.model_copy(update={"learning_rate": 1e-2}),
        "duel": DuelSettings(trials=False),
    }
)
ADAPTER = "adapter_model.safetensors"


def environment_of(settings: LearnerSettings) -> dict[str, str]:
    """Return the environment variables that pass `settings` to another process."""

    def flatten(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
        for name, value in values.items():
            if isinstance(value, dict):
                yield from flatten(value, f"{prefix}{name.upper()}__")
            else:
                yield f"{prefix}{name.upper()}", str(value)

    return dict(flatten(settings.model_dump(exclude_unset=True), "PLAUDIT_LEARNER_"))


def learn_in_process(home: Path, failpoints: Path | None, settings: LearnerSettings) -> None:
    """Run the learner service in this process until it is killed."""
    if failpoints:
        os.environ["PLAUDIT_FAILPOINTS"] = str(failpoints)
    run(home, settings, threading.Event())


def add_votes(home: Path, first: int, votes: int) -> None:
    """Add votes to the log."""
    log = SqliteLog(home / "log.db")
    cast_votes(log, load_tokenizer(home / "models" / "sft"), votes, first=first)
    log.close()


def weights(home: Path, version: int = 2, file: str = "model.safetensors") -> bytes:
    registry = FolderRegistry(home / "registry")
    registry.verify(version)
    return (registry.path(version) / file).read_bytes()


def read_report(folder: Path) -> Report:
    """Load a cycle's report; check that its chart and its Markdown page are there."""
    assert ElementTree.parse(folder / "report.svg").getroot().tag.endswith("svg")
    assert (folder / "report.md").read_text().startswith("# ")
    return Report.model_validate_json((folder / "report.json").read_bytes())


def cycle_report(home: Path) -> Report:
    return read_report(home / "learner" / "cycles" / "001")


def run_until_done_or_killed(
    home: Path, failpoints: Path | None = None, settings: LearnerSettings = SETTINGS
) -> int | None:
    """Run the service in a process until its cycle has ended or it dies; return its exit code."""
    process = FORKS.Process(target=learn_in_process, args=(home, failpoints, settings))
    process.start()
    ended, deadline = cycle_ended(home), time.monotonic() + 400
    while process.is_alive() and not ended() and time.monotonic() < deadline:
        process.join(0.02)
    alive = process.is_alive()
    process.kill()
    process.join()
    assert not alive or ended(), "the cycle did not end in time"
    return process.exitcode
