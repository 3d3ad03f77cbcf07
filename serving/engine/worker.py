"""What is added to vLLM's worker: a reload after which the output head is the new policy's too."""

import torch
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead


class PolicyWorker:
    """Mixed into vLLM's worker (`--worker-extension-cls`); called by `collective_rpc`."""

    def reload_policy(self, weights_path: str) -> None:
        """Load the weights of another checkpoint in place.

        On a CPU vLLM 0.32 computes with packed copies of the weights. A reload packs again what
        it loads. An output head tied to the embedding is not loaded by itself, so its copy stayed
        that of the policy before. Elsewhere nothing is packed, and packing again does nothing.
        """
        self.reload_weights(weights_path=weights_path)  # type: ignore[attr-defined]
        model: torch.nn.Module = self.model_runner.get_model()  # type: ignore[attr-defined]
        for module in model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)
