"""How the loop is doing, as a snapshot of a few kilobytes: GET /v1/learning."""

from typing import Any

from feedback.control.history import History, HistorySnapshot
from feedback.control.versions import Versions, finite_figures
from feedback.privacy.lineage import NON_TRAINING_KINDS
from feedback.view.feedback_view import View
from protos.checkpoints.registry import Registry


class Learning:
    """Takes snapshots of one replica's knowledge. For one thread at a time."""

    def __init__(self, history: History, registry: Registry, view: View | None) -> None:
        """Look at what `history` and `view` hold; who keeps them follows the log.

        Without a view votes are not counted.
        """
        self._history = history
        self._versions = Versions(registry)
        self._view = view

    def snapshot(self) -> dict[str, Any]:
        """Return the snapshot, as JSON.

        Raises:
            ViewError: The view cannot be read.

        """
        told = self._history.snapshot()
        return {
            "object": "learning",
            "live": told.state.live or None,
            "on_trial": told.state.challenger or None,
            "held": told.state.held,
            "loop": _loop(told),
            "votes": None if self._view is None else _votes(self._view, told),
            "versions": [
                version.to_public_json() for version in self._versions.list_versions(told)
            ],
            "refused": [
                {
                    "parent": refusal.parent,
                    "created": refusal.created_ms / 1000,
                    "reasons": list(refusal.reasons),
                    "figures": finite_figures(refusal.figures),
                }
                for refusal in told.refused
            ],
            "replicas": dict(sorted(told.state.replicas.items())),
        }


def _votes(view: View, told: HistorySnapshot) -> dict[str, Any]:
    kinds = view.effective_counts()
    kinds = {kind: count for kind, count in sorted(kinds.items()) if kind not in NON_TRAINING_KINDS}
    waiting = view.count_pending(told.lineage.last)
    return {"total": sum(kinds.values()), "waiting": waiting, "kinds": kinds}


def _loop(told: HistorySnapshot) -> dict[str, Any]:
    loop = told.learner_status
    return {
        "stage": loop.stage,
        "cycle": loop.cycle,
        "since": loop.since_ms / 1000,
        "iteration": loop.iteration,
        "iterations": loop.iterations,
    }
