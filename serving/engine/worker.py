"""The class that is mixed into vLLM's worker."""

from serving.engine.vllm_patches import reload_worker_weights


class PolicyWorker:
    """Extension of vLLM's worker (`--worker-extension-cls`), called by `collective_rpc`."""

    def reload_policy(self, weights_path: str) -> None:
        """Load the weights of another checkpoint in place."""
        reload_worker_weights(self, weights_path)
