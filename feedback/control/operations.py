"""What operators do to the policies: activate, roll back, hold, resume.

Each reads the policy events first, refuses what would change nothing, and says in one line what
follows from it.
"""

from feedback.control.history import History
from feedback.control.policies import append_policy_event
from feedback.errors import FeedbackError
from feedback.log.event_log import EventLog
from protos.checkpoints.registry import CheckpointInvalid, Registry
from protos.plaudit.v1.policy_pb2 import Activated, Hold


class OperationRefused(FeedbackError):
    """It cannot be done as things are; the message says why."""


class NoSuchVersion(OperationRefused):
    """The version was never published."""


class Operations:
    """An operator's hands on one installation. Every method blocks.

    All raise LogUnavailable where the log is away; what was asked for may or may not be done.
    """

    def __init__(self, log: EventLog, registry: Registry, history: History) -> None:
        """Act through `log`, on what `history`, which follows it, says."""
        self._log = log
        self._registry = registry
        self._history = history

    def activate(self, version: int, by: str, reason: str = "") -> str:
        """Make `version` the one that replicas serve; a lower one than now is a roll-back.

        Raises:
            NoSuchVersion: It was never published.
            NotPossible: It is live already, or its files are not whole.
            RegistryUnavailable: Its files could not be looked at.

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
                f"Rolling back from version {state.live} to {version}. Nothing new goes live "
                "until publishing is resumed."
            )
        ended = f" The trial of version {state.challenger} ends." if state.challenger else ""
        return f"Version {version} goes live.{ended}"

    def rollback(self, by: str, reason: str = "") -> str:
        """Go back to the version that was live before.

        Raises:
            NotPossible: There is none.

        """
        state = self._history.poll()
        if not state.previous:
            raise OperationRefused(f"there is no version before {state.live} to go back to")
        return self.activate(state.previous, by, reason)

    def hold(self, by: str, reason: str = "") -> str:
        """Let nothing new go live.

        Raises:
            NotPossible: Publishing is held already.

        """
        if self._history.poll().held:
            raise OperationRefused("publishing is held already")
        append_policy_event(self._log, Hold(held=True, by=by, reason=reason))
        return "Nothing new goes live until publishing is resumed."

    def resume(self, by: str, reason: str = "") -> str:
        """Let new versions go live again.

        Raises:
            NotPossible: Publishing is not held.

        """
        if not self._history.poll().held:
            raise OperationRefused("publishing is not held")
        append_policy_event(self._log, Hold(held=False, by=by, reason=reason))
        return "New versions go live again."
