"""Seeing a trial out: counting the votes of the duel that runs, and ending it when they decide."""

import logging

from feedback.control.policies import PolicyState
from feedback.ledger.store import Ledger
from learner.cycle.metrics import Metrics
from learner.cycle.publishing import Publisher
from learner.gate.duel import TrialResult, evaluate_trial, trial_votes
from learner.settings import DuelSettings

logger = logging.getLogger(__name__)


class Trials:
    """The trials that one learner sees out while it leads."""

    def __init__(
        self, ledger: Ledger, publisher: Publisher, metrics: Metrics, settings: DuelSettings
    ) -> None:
        """Count what is in `ledger`; end duels through `publisher`."""
        self._ledger = ledger
        self._publisher = publisher
        self._metrics = metrics
        self._settings = settings
        self._counted = (0, -1)  # the challenger, and the last ledger row, when last counted

    def running(self, policies: PolicyState) -> bool:
        """Tell whether a version is on trial; count its votes, and end its duel if they decide.

        Raises:
            LogUnavailable: The end may or may not be in the log; look again.

        """
        if not policies.challenger:
            return False
        self._metrics.stage("duel")
        self._publisher.report_stage("trial")
        if policies.held:
            return True  # nothing new goes live until an operator lets it
        standing = self._standing(policies)
        if standing is None or standing.promoted is None:
            return True
        self._publisher.end_duel(policies, standing)
        self._metrics.duel_ended(standing)
        logger.info(
            "version %d is %s: %s (%d for it, %d for version %d, %d for neither)",
            policies.challenger,
            "promoted" if standing.promoted else "rolled back",
            standing.reason,
            standing.wins,
            standing.losses,
            policies.live,
            standing.ties,
        )
        return False

    def _standing(self, policies: PolicyState) -> TrialResult | None:
        """Count anew; None where nothing has come since the last time."""
        if policies.trial_failure:
            return TrialResult(promoted=False, reason=f"not loaded by {policies.trial_failure}")
        last = self._ledger.counts().max_seq
        if self._counted == (policies.challenger, last):
            return None
        # It was published after it had learned: no vote on its answers is older.
        after = self._publisher.learned_upto(policies.challenger)
        votes = trial_votes(
            self._ledger.effective_events(after, last),
            live=policies.live,
            challenger=policies.challenger,
        )
        standing = evaluate_trial(votes, self._settings)
        self._metrics.duel(standing)
        if standing.promoted is None:
            self._counted = (policies.challenger, last)
        return standing
