"""What the learner waits for between two cycles: the decision of a trial, and enough votes."""

import logging
import math
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feedback.control.policies import PolicyState
from feedback.control.reports import ReportPruner
from feedback.errors import FeedbackError
from feedback.ledger.retention import RetentionLimits, Schedule
from feedback.ledger.store import Ledger
from feedback.log.event_log import EventLog
from learner.cycle.context import training_examples
from learner.cycle.inputs import load_reference, load_split_secret
from learner.cycle.metrics import Metrics
from learner.cycle.publishing import Publisher
from learner.data.owner_bound import MAX_OWNER_VOTES, OwnerBound, relative_weights
from learner.data.preferences import split_examples
from learner.data.tokenizer import pad_token_id
from learner.errors import Interrupted, LearnerError
from learner.gate.duel import TrialResult, evaluate_trial, trial_votes
from learner.reward.evidence import Evidence, check_gains, check_splits
from learner.reward.features import AnswerFeatures
from learner.reward.probe import probe
from learner.settings import DuelSettings, LearnerSettings
from protos.checkpoints.registry import RegistryError

logger = logging.getLogger(__name__)

# Errors that no vote causes.
_FAULTS_ELSEWHERE: Final = (
    *(LearnerError, FeedbackError, RegistryError),
    *(OSError, MemoryError, sqlite3.Error),
)
_LOOK_ROWS: Final = 500  # latest ledger rows that a look at the votes uses
_LOOK_GROWTH: Final = 0.1  # share of the new votes that must come before another look


@dataclass(frozen=True, slots=True)
class VoteReader:
    """Looks at the votes in the ledger, as the first stage of a cycle would.

    Attributes:
        home: Home folder.
        settings: Settings of the learner, as configured.
        ledger: Ledger of the home folder.
        trusted_owners: Returns the owners whose users are trusted (`learner.data.owner_bound`).
        raise_if_stopped: Called while the probe runs; an exception from it ends the look.

    """

    home: Path
    settings: LearnerSettings
    ledger: Ledger
    trusted_owners: Callable[[], frozenset[str]]
    raise_if_stopped: Callable[[], None]

    def look(self, after: int, upto: int) -> Evidence:
        """Return whether the votes in ledger rows (after, upto] are enough for a cycle.

        Older votes help to predict the new ones, but are no reason for another cycle.

        Raises:
            ModelUnusable: The registry has no valid version 1, or the secret that signed it is
                missing.

        """
        reference, tokenizer, settings = load_reference(self.home, self.settings)
        events = self.ledger.effective_events(max(0, min(after, upto - _LOOK_ROWS)), upto)
        micro_tokens = settings.reward.micro_tokens
        old, new = (
            training_examples(part, reference, tokenizer, micro_tokens)
            for part in (
                [e for e in events if e.seq <= after],
                [e for e in events if e.seq > after],
            )
        )
        bound = OwnerBound(self.settings.max_owner_votes, self.trusted_owners())
        parts = split_examples([*old, *new], settings.reward, load_split_secret(self.home))
        weighed = {split: bound.weigh(part) for split, part in parts.items()}
        splits = check_splits(weighed, settings.reward)
        if splits.missing:
            return splits
        features = AnswerFeatures(
            reference, tokenizer, pad_token_id(tokenizer), settings.dtype, micro_tokens
        )
        votes = bound.weigh([*old, *new])
        result = probe(features, votes, self.raise_if_stopped)
        gains = list(zip((vote.key for vote in votes), result.gains, strict=True))[len(old) :]
        return check_gains(gains, relative_weights(votes[len(old) :]))


class VoteWatch:
    """Decides when the new votes are enough for a cycle, and estimates how many are needed.

    `min_events` votes are always enough. Fewer are, from `early_share` of them on, as soon as a
    look at what they say finds it so. A look takes seconds, so that a few votes come between two.

    Attributes:
        needed: Estimated number of new votes at which a cycle starts.
        reason: Why there are not enough yet, as a sentence.

    """

    def __init__(
        self,
        ledger: Ledger,
        settings: LearnerSettings,
        look: Callable[[int, int], Evidence],
        after: int,
    ) -> None:
        """Watch the votes after ledger row `after`; `look(after, upto)` checks what they say."""
        self._ledger = ledger
        self._look = look
        self._after = after
        self._latest = settings.min_events
        self._next_votes = self.needed = math.ceil(settings.early_share * settings.min_events)
        self._next_rows = self._next_votes
        self._found = False
        self.reason = f"The learner looks at the new votes once there are {self.needed}."

    def enough(self, upto: int) -> bool:
        """Return whether the votes up to ledger row `upto` are enough for a cycle."""
        rows = upto - self._after
        if self._found or rows < self._next_rows:
            return self._found
        votes = self._ledger.count_effective(self._after, upto)
        if self._next_votes <= votes < self._latest:
            evidence = self._safe_look(upto)
            if evidence.missing == 0:
                logger.info("%d new votes can be predicted: a cycle starts", votes)
                self._found = True
            else:
                self._postpone(evidence, votes)
        self._next_rows = rows + max(1, self._next_votes - votes)
        self._found = self._found or votes >= self._latest
        return self._found

    def _safe_look(self, upto: int) -> Evidence:
        """Look at the votes; one that cannot be looked at must not stop the learner."""
        try:
            return self._look(self._after, upto)
        except (Interrupted, *_FAULTS_ELSEWHERE):
            raise
        except Exception:
            logger.exception("the votes up to ledger row %d could not be looked at", upto)
            return Evidence(None, "The votes could not be looked at; the learner's log says why.")

    def _postpone(self, evidence: Evidence, votes: int) -> None:
        """Note how many votes are needed, and when to look again."""
        missing = self._latest if evidence.missing is None else evidence.missing
        self.needed, self.reason = votes + missing, evidence.reason
        if self.needed >= self._latest:
            self.needed = self._latest
            self.reason += f" At {self._latest} new votes the learner starts in any case."
        growth = max(math.ceil(_LOOK_GROWTH * votes), (self.needed - votes) // 4)
        self._next_votes = min(self.needed, votes + growth)
        logger.info("%d new votes, about %d are needed: %s", votes, self.needed, self.reason)


class Expiry:
    """Deletes old answers without feedback, and old reports, once an hour."""

    def __init__(
        self, ledger: Ledger, log: EventLog, metrics: Metrics, settings: LearnerSettings
    ) -> None:
        """Delete what is over the limits in `settings`."""
        self._ledger = ledger
        self._log = log
        self._metrics = metrics
        self._reports = ReportPruner(log)
        self._schedule = Schedule()
        self._limits = RetentionLimits(
            age_ms=int(settings.retention_days * 86_400_000),
            size=int(settings.retention_gib * (1 << 30)),
        )

    def run_if_due(self) -> None:
        """Delete what has expired, if an hour has passed; call this only between cycles.

        Raises:
            LogUnavailable: Some may be deleted and others not; call this again later.

        """
        if not self._schedule.due():
            return
        now_ms = int(time.time() * 1000)
        self._reports.run(now_ms)
        expired = self._ledger.expire(self._log, self._limits, now_ms)
        self._metrics.set_retention(self._ledger.used_bytes(), expired)
        if expired:
            logger.info("%d answers without feedback have expired", expired)


class Trials:
    """Evaluates the trials of the installation while this learner leads."""

    def __init__(
        self,
        ledger: Ledger,
        publisher: Publisher,
        metrics: Metrics,
        settings: DuelSettings,
        max_owner_votes: int = MAX_OWNER_VOTES,
    ) -> None:
        """Evaluate the votes in `ledger` and announce decisions through `publisher`."""
        self._ledger = ledger
        self._publisher = publisher
        self._metrics = metrics
        self._settings = settings
        self._max_owner_votes = max_owner_votes
        self._counted = (0, -1)  # challenger and last ledger row of the last evaluation

    def advance(self, policies: PolicyState) -> bool:
        """Evaluate the current trial, if any, and end it if it is decided.

        Returns:
            Whether a version is still on trial.

        Raises:
            LogUnavailable: The decision may or may not be in the log; call this again.

        """
        if not policies.challenger:
            return False
        self._metrics.set_stage("duel")
        self._publisher.report_stage("trial")
        if policies.held:
            return True  # no version may go live while publishing is on hold
        result = self._evaluate(policies)
        if result is None or result.promoted is None:
            return True
        self._publisher.end_trial(policies, result)
        self._metrics.trial_ended(result)
        logger.info(
            "version %d is %s: %s (%d votes for it, %d for version %d, %d ties)",
            policies.challenger,
            "promoted" if result.promoted else "rolled back",
            result.reason,
            result.wins,
            result.losses,
            policies.live,
            result.ties,
        )
        return False

    def _evaluate(self, policies: PolicyState) -> TrialResult | None:
        """Return the result of all votes so far; None if no row has come since the last time."""
        if policies.trial_failure:
            return TrialResult(
                promoted=False, reason=f"a replica could not load it ({policies.trial_failure})"
            )
        last = self._ledger.counts().max_seq
        if self._counted == (policies.challenger, last):
            return None
        # Votes on the challenger's answers are newer than the votes that it learned from.
        after = self._publisher.learned_upto(policies.challenger)
        votes = trial_votes(
            self._ledger.stream_events(after, last),
            live=policies.live,
            challenger=policies.challenger,
            bound=OwnerBound(self._max_owner_votes, self._publisher.trusted_owners()),
        )
        result = evaluate_trial(votes, self._settings)
        self._metrics.set_trial(result)
        if result.promoted is None:
            self._counted = (policies.challenger, last)
        return result
