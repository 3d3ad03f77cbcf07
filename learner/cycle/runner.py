"""Runs one learning cycle: reward model, judge, PPO, gate, publish; the state is saved after each.

A cycle that is killed at any moment and run again ends with the same weights bit for bit, on the
same machine with the same number of threads: the interrupted stage is run again, and PPO resumes
from its last training state.

If the learner dies twice at one place, what it worked on is set aside: votes as dead letters, after
which the cycle restarts without them, or else the cycle itself, which ends as failed.

If a person is forgotten during the cycle, everything trained is deleted after the current stage,
and the cycle restarts without that person's data. The cycle's folder contains only weights,
figures, and a report without text from people.
"""

import logging
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from feedback.errors import FeedbackError
from feedback.failpoints import failpoint
from learner.cycle.context import CycleContext
from learner.cycle.reporting import NOTES
from learner.cycle.stages import STAGES, StageResult
from learner.cycle.state import MODELS_FORMAT, CycleState
from learner.data.work import listening
from learner.errors import Interrupted, LearnerError
from protos.checkpoints.registry import RegistryError

logger = logging.getLogger(__name__)

_NO_DEATHS: Final = (
    *(Interrupted, LearnerError, FeedbackError, RegistryError),
    *(OSError, sqlite3.Error, KeyboardInterrupt, SystemExit),
)
_TRAINED_FILES: Final = ("candidate", "ppo", "reward.pt", "judge.pt", NOTES)


def run_cycle(context: CycleContext) -> CycleState:
    """Run every stage that is not done yet, and return the final state.

    Raises:
        Interrupted: The learner must stop; run the cycle again later.
        LogUnavailable: The log was unavailable; run the cycle again.

    """
    state = context.state
    state.resumed = state.resumed or state.stage != "reward"
    try:
        state.save(context.folder)
        logger.info(
            "cycle %d: %d votes since version %d; the next stage is '%s'",
            *(state.number, state.events, state.parent, state.stage),
        )
        _set_cause_of_deaths_aside(context)
        with _noting_deaths(context):
            _restart_if_tuning_changed(context)
        while state.stage != "done":
            if context.is_outdated():
                _restart(context, "a person was forgotten")
            _run_stage(context)
        context.metrics.cycle_ended(state)
        _delete_trained(context.folder)
        context.deaths.forget(context.folder)
        return state
    finally:
        context.data.close()


def _run_stage(context: CycleContext) -> None:
    state, stage = context.state, context.state.stage
    context.metrics.set_stage(stage)
    context.publisher.report_stage(stage, state.number)
    started = time.monotonic()
    with _noting_deaths(context):
        failpoint(f"learner.{stage}")
        result = STAGES[stage](context)
    _apply(result, state)
    state.seconds[stage] = round(time.monotonic() - started, 1)
    if state.outcome is not None:
        context.reporter.write(context.folder, state, state.outcome, context.publisher.base_model())
    state.save(context.folder)
    logger.info("cycle %d: stage '%s' took %.0f s", state.number, stage, state.seconds[stage])


@contextmanager
def _noting_deaths(context: CycleContext) -> Iterator[None]:
    """Note where the stage works, so that the next start knows where this process died.

    An error of the surroundings, which passes or which an operator must fix, is not a death.
    Publishing is tried until it succeeds: it does not depend on data of people.
    """
    if context.state.stage in ("publish", "done"):
        yield
        return
    context.enter()
    try:
        with listening(lambda votes: context.enter(votes=votes)):
            yield
    except _NO_DEATHS:
        context.deaths.enter(context.folder, None)
        raise
    context.deaths.enter(context.folder, None)


def _set_cause_of_deaths_aside(context: CycleContext) -> None:
    """Set aside what the learner worked on when it died twice at one place."""
    state, deaths = context.state, context.deaths
    votes = deaths.suspects()
    if votes is None:
        return
    place = deaths.deaths[-1]
    if votes:
        reason = f"the learner died twice in stage '{place.stage}' while it worked on this vote"
        context.ledger.set_aside(dict.fromkeys(sorted(votes), reason))
        _restart(context, f"{len(votes)} votes at which the learner died twice were set aside")
    else:
        count = sum(death.stage == place.stage for death in deaths.deaths)
        reason = f"the learner died {count} times in stage '{place.stage}', step {place.step}"
        logger.error("cycle %d is given up: %s", state.number, reason)
        state.end("failed", [reason])
        context.reporter.write(context.folder, state, "failed", context.publisher.base_model())
        state.save(context.folder)
    deaths.deaths.clear()
    deaths.enter(context.folder, None)


def _apply(result: StageResult, state: CycleState) -> None:
    state.figures |= result.figures
    if result.tuning is not None:
        state.tuning, state.models_format = result.tuning, MODELS_FORMAT
    if result.sizes is not None:
        state.sizes = result.sizes
    if result.outcome is None:
        state.stage = result.next_stage
    else:
        state.end(result.outcome, list(result.reasons))


def _restart_if_tuning_changed(context: CycleContext) -> None:
    """Restart a cycle in training if its saved models do not fit the models of today's settings."""
    state = context.state
    in_training = state.stage in ("judge", "ppo", "gate")  # a finished candidate is published
    if in_training and state.tuning != context.settings.tuning:
        _restart(
            context,
            f"it trained '{state.tuning}' so far, and the settings now ask for "
            f"'{context.settings.tuning}'",
        )
    elif in_training and state.models_format != MODELS_FORMAT:
        _restart(context, "an earlier release trained its models")


def _restart(context: CycleContext, reason: str) -> None:
    """Delete everything trained, and go back to the first stage with the votes that are left."""
    state, ledger = context.state, context.ledger
    logger.info("cycle %d restarts, because %s", state.number, reason)
    # Deleted before the state is saved, since a stage resumes from the files that it finds.
    _delete_trained(context.folder)
    context.replace_data()
    forgettings = ledger.last_forgetting()
    events = ledger.count_effective(state.after_seq, state.upto_seq)
    state.restart(events=events, forgettings=forgettings)
    state.save(context.folder)


def _delete_trained(folder: Path) -> None:
    for name in _TRAINED_FILES:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
