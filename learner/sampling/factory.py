"""Creates the samplers that the settings ask for."""

from typing import TYPE_CHECKING

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from learner.data.tokenizer import end_token_ids, pad_token_id
from learner.sampling.sampler import Sampler, TransformersSampler
from learner.settings import LearnerSettings

if TYPE_CHECKING:
    from learner.sampling.vllm_sampler import VllmEngine


class SamplerFactory:
    """Creates samplers of the policies of one family; with vLLM they share one engine."""

    def __init__(
        self,
        reference: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: LearnerSettings,
    ) -> None:
        """Prepare for policies of the reference's architecture; starts no engine yet."""
        self._reference = reference
        self._tokenizer = tokenizer
        self._settings = settings
        self._engine: VllmEngine | None = None

    def create(self, model: PreTrainedModel) -> Sampler:
        """Return a sampler of `model`, to be used before `close`."""
        ends, ppo = end_token_ids(self._tokenizer), self._settings.ppo
        if self._settings.sampler == "transformers":
            pad = pad_token_id(self._tokenizer)
            return TransformersSampler(
                model, ends, pad=pad, batch=ppo.rollouts, dtype=self._settings.dtype
            )
        from learner.sampling.vllm_sampler import VllmEngine, VllmSampler  # takes seconds to import

        if self._engine is None:
            self._engine = VllmEngine(
                self._reference,
                max_tokens=ppo.max_prompt_tokens + max(ppo.max_tokens, ppo.text_row),
                batch=ppo.rollouts,
                dtype=self._settings.dtype,
            )
        return VllmSampler(model, ends, self._engine)

    def close(self) -> None:
        """Stop the engine, if one was started."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
