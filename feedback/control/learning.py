"""The state of learning, as GET /v1/learning returns it."""

from typing import Any

from feedback.control.history import History, HistorySnapshot
from feedback.control.versions import Versions, finite_figures
from feedback.privacy.lineage import NON_TRAINING_KINDS
from feedback.view.feedback_view import View
from protos.checkpoints.registry import Registry


class Learning:
    """Takes snapshots of the state of learning. For one thread at a time."""

    def __init__(
        self, history: History, registry: Registry, view: View | None, *, costs: str = ""
    ) -> None:
        """Read `history` and `view`, which others keep up to date.

        Args:
            history: Policy events.
            registry: The registry of checkpoints.
            view: View of the feedback; without one, votes are not counted.
            costs: What the model costs on this machine, in words; empty if unknown.

        """
        self._history = history
        self._versions = Versions(registry)
        self._view = view
        self._costs = costs

    def snapshot(self) -> dict[str, Any]:
        """Return the snapshot in JSON form, a few kilobytes.

        Raises:
            ViewError: The view cannot be read.

        """
        history = self._history.snapshot()
        votes = None if self._view is None else _votes(self._view, history)
        return {
            "object": "learning",
            "live": history.state.live or None,
            "on_trial": history.state.challenger or None,
            "held": history.state.held,
            "loop": _learner_status(history, None if votes is None else votes["waiting"]),
            "votes": votes,
            "versions": [
                version.to_public_json() for version in self._versions.list_versions(history)
            ],
            "refused": [
                {
                    "parent": refusal.parent,
                    "created": refusal.created_ms / 1000,
                    "reasons": list(refusal.reasons),
                    "figures": finite_figures(refusal.figures),
                }
                for refusal in history.refused
            ],
            "replicas": dict(sorted(history.state.replicas.items())),
            "costs": self._costs,
        }


def _votes(view: View, history: HistorySnapshot) -> dict[str, Any]:
    kinds = view.effective_counts()
    kinds = {kind: count for kind, count in sorted(kinds.items()) if kind not in NON_TRAINING_KINDS}
    pending = view.count_pending(history.lineage.last)
    return {"total": sum(kinds.values()), "waiting": pending, "kinds": kinds}


def _learner_status(history: HistorySnapshot, waiting: int | None) -> dict[str, Any]:
    status = history.learner_status
    known = status.votes_needed and waiting is not None
    return {
        "stage": status.stage,
        "cycle": status.cycle,
        "since": status.since_ms / 1000,
        "iteration": status.iteration,
        "iterations": status.iterations,
        "votes_missing": max(0, status.votes_needed - (waiting or 0)) if known else None,
        "reason": status.reason,
    }
