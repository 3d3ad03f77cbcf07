"""The class that is mixed into vLLM's worker."""

import logging

from feedback.failpoints import failpoint
from serving.engine.vllm_patches import load_worker_adapter, reload_worker_weights

logger = logging.getLogger("plaudit.serving")


class PolicyWorker:
    """Extension of vLLM's worker (`--worker-extension-cls`), called by `collective_rpc`.

    Every worker of a model that is split over several does the same, and reports what it holds
    then. None raises an error: vLLM 0.32 stops reading the replies of the workers at the first
    error, and would take the others for replies to the next call.
    """

    rank = 0  # vLLM sets that of each worker
    policy_version = ""

    def reload_policy(self, weights_path: str, version: str) -> str:
        """Load the weights of another checkpoint in place.

        Returns:
            The version whose weights this worker holds; the reason if they could not be loaded.

        """
        self.policy_version = ""
        try:
            reload_worker_weights(self, weights_path)
            failpoint(f"worker{self.rank}.reload")
        except Exception as error:
            logger.exception("The weights of version %s could not be loaded", version)
            return f"{type(error).__name__}: {error}"
        self.policy_version = version
        return version

    def load_adapter(self, name: str, number: int, path: str) -> str:
        """Load an adapter beside the weights.

        Returns:
            The adapter's name; the reason if it could not be loaded.

        """
        try:
            load_worker_adapter(self, name, number, path)
        except Exception as error:
            logger.exception("The adapter %s could not be loaded", name)
            return f"{type(error).__name__}: {error}"
        return name

    def report_policy(self) -> str:
        """Return the version that was last loaded; empty if the last reload failed."""
        return self.policy_version
