"""Trials: counts the votes between the challenger and the live version until they decide."""

import logging

from feedback.control.policies import PolicyState
from feedback.ledger.store import Ledger
from learner.cycle.metrics import Metrics
from learner.cycle.publishing import Publisher
from learner.gate.duel import TrialResult, evaluate_trial, trial_votes
from learner.settings import DuelSettings

logger = logging.getLogger(__name__)


class Trials:
    """Evaluates the trials of the installation while this learner leads."""

    def __init__(
        self, ledger: Ledger, publisher: Publisher, metrics: Metrics, settings: DuelSettings
    ) -> None:
        """Evaluate the votes in `ledger` and announce decisions through `publisher`."""
        self._ledger = ledger
        self._publisher = publisher
        self._metrics = metrics
        self._settings = settings
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
            self._ledger.effective_events(after, last),
            live=policies.live,
            challenger=policies.challenger,
        )
        result = evaluate_trial(votes, self._settings)
        self._metrics.set_trial(result)
        if result.promoted is None:
            self._counted = (policies.challenger, last)
        return result
