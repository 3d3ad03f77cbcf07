"""Creates the samplers that the settings ask for."""

from typing import TYPE_CHECKING, Final

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from learner.data.tokenizer import end_token_ids, pad_token_id
from learner.sampling.sampler import Sampler, TransformersSampler
from learner.settings import LearnerSettings, PPOSettings

if TYPE_CHECKING:
    from learner.sampling.vllm_sampler import VllmEngine

# A token's keys and values take at most a 17th of what it needs in a pass that is trained on.
_SAMPLED_PER_TRAINED: Final = 16


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
                model, ends, pad=pad, batch=_batch(ppo), dtype=self._settings.dtype
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


def _batch(ppo: PPOSettings) -> int:
    """Return the number of answers that are sampled at once, as many as the memory holds."""
    fitting = _SAMPLED_PER_TRAINED * ppo.micro_tokens // (ppo.max_prompt_tokens + ppo.max_tokens)
    return max(1, min(ppo.rollouts, fitting))
