"""Operators' actions on policies: activate, roll back, hold, resume.

Each action reads the policy events first, refuses what would change nothing, and returns one line
that describes its effect.
"""

from feedback.control.history import History
from feedback.control.policies import append_policy_event
from feedback.errors import FeedbackError
from feedback.log.event_log import EventLog
from protos.checkpoints.registry import CheckpointInvalid, Registry
from protos.plaudit.v1.policy_pb2 import Activated, Hold


class OperationRefused(FeedbackError):
    """The action is not possible in the current state; the message says why."""


class NoSuchVersion(OperationRefused):
    """The version was never published."""


class Operations:
    """Operators' actions on one installation. Every method blocks.

    Every method raises LogUnavailable if the log is unavailable; the action may or may not have
    been recorded then.
    """

    def __init__(self, log: EventLog, registry: Registry, history: History) -> None:
        """Append actions to `log`, based on `history`, which follows it."""
        self._log = log
        self._registry = registry
        self._history = history

    def activate(self, version: int, by: str, reason: str = "") -> str:
        """Make `version` live; a version below the live one is a rollback.

        Raises:
            NoSuchVersion: It was never published.
            OperationRefused: It is live already, or its files are incomplete.
            RegistryUnavailable: Its files could not be checked.

        """
        state = self._history.poll()
        if version not in state.published:
            raise NoSuchVersion(f"there is no version {version}")
        if version == state.live and not state.challenger:
            raise OperationRefused(f"version {version} is live already")
        try:
            self._registry.check(version)
        except CheckpointInvalid as error:
            raise OperationRefused(str(error)) from error
        append_policy_event(self._log, Activated(version=version, by=by, reason=reason))
        if version < state.live:
            return (
                f"Rolling back from version {state.live} to {version}. No new version goes live "
                "until publishing is resumed."
            )
        trial = f" The trial of version {state.challenger} ends." if state.challenger else ""
        return f"Version {version} goes live.{trial}"

    def rollback(self, by: str, reason: str = "") -> str:
        """Go back to the version that was live before.

        Raises:
            OperationRefused: There is none.

        """
        state = self._history.poll()
        if not state.previous:
            raise OperationRefused(f"there is no version before {state.live} to go back to")
        return self.activate(state.previous, by, reason)

    def hold(self, by: str, reason: str = "") -> str:
        """Put publishing on hold: no new version goes live.

        Raises:
            OperationRefused: Publishing is on hold already.

        """
        if self._history.poll().held:
            raise OperationRefused("publishing is on hold already")
        append_policy_event(self._log, Hold(held=True, by=by, reason=reason))
        return "No new version goes live until publishing is resumed."

    def resume(self, by: str, reason: str = "") -> str:
        """Resume publishing: new versions go live again.

        Raises:
            OperationRefused: Publishing is not on hold.

        """
        if not self._history.poll().held:
            raise OperationRefused("publishing is not on hold")
        append_policy_event(self._log, Hold(held=False, by=by, reason=reason))
        return "New versions go live again."
