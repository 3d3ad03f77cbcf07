"""The models: a Llama-architecture policy, and the same trunk with a scalar head.

A frozen model's copies share its weights, and are trained by adapters (`learner.models.adapters`).
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
import transformers.utils.logging
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from learner.data.answers import AnswerBatch
from learner.data.tokenizer import end_token_ids
from learner.errors import ModelUnusable
from learner.models.adapters import is_adapter, merged, with_adapter
from learner.settings import Dtype, PretrainSettings

_Module = TypeVar("_Module", bound=nn.Module)
_LONG: Final = 320  # tokens in a row from which flash attention is as fast, or faster

transformers.utils.logging.disable_progress_bar()  # of loading weights: it clutters logs


def new_model(settings: PretrainSettings, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """Return a Llama with random weights from the settings' seed."""
    torch.manual_seed(settings.seed)
    ends = list(end_token_ids(tokenizer))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.feed_forward,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        # Llama's own .02 is meant for wide models; a narrow one starts to learn sooner with this.
        initializer_range=settings.initial_deviation,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, do_sample=True, temperature=1.0
    )
    return model


def best_device() -> torch.device:
    """Return this process's GPU, or the processor; CUDA_VISIBLE_DEVICES decides what it may use."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(folder: Path | str, device: torch.device | None = None) -> PreTrainedModel:
    """Load a causal language model in float32, without dropout; on the processor unless told.

    Raises:
        ModelUnusable: There is no such model.

    """
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except OSError as error:
        raise ModelUnusable(f"{folder} holds no causal language model: {error}") from error
    return model.to(device or "cpu").eval()


def temperature_of(model: PreTrainedModel) -> float:
    """Return the temperature at which a model wants to be sampled; 1 where it does not say."""
    wanted = model.generation_config
    if wanted is None or not wanted.do_sample:
        return 1.0
    return float(wanted.temperature or 1.0)


def load_tokenizer(folder: Path | str) -> PreTrainedTokenizerBase:
    """Load a model folder's tokenizer."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    except OSError as error:
        raise ModelUnusable(f"{folder} holds no tokenizer: {error}") from error
    return tokenizer


def parameters_of(model: nn.Module) -> int:
    """Count the parameters, shared ones once."""
    return sum(p.numel() for p in model.parameters())


@contextmanager
def compute_in(dtype: Dtype, ids_BT: Tensor) -> Iterator[None]:
    """Compute matrix products on these rows in `dtype`; the weights stay float32.

    On a processor short rows take plain attention: flash attention's backward pass in bfloat16
    takes 7 ms there for 16 rows of 48 tokens, this one's 1. What is compiled keeps the attention
    that it was compiled with, so that there long rows go without.
    """
    if dtype == "float32":
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(ids_BT.device.type, dtype=torch.bfloat16))
        if ids_BT.device.type == "cpu":
            short = ids_BT.shape[1] < _LONG
            stack.enter_context(
                sdpa_kernel(SDPBackend.MATH) if short else torch.compiler.set_stance("force_eager")
            )
        yield


def frozen(model: PreTrainedModel, dtype: Dtype) -> PreTrainedModel:
    """Freeze a model in the format that it is computed in, in place; adapters stay float32.

    Under autocast weights that are not trained would be converted in every forward pass.
    """
    return _cast(model.requires_grad_(False), dtype)


def _cast(model: PreTrainedModel, dtype: Dtype) -> PreTrainedModel:
    """Change the format of the weights, in place; not of buffers: rotary angles must stay exact."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype))
    return model


def cast_copy(model: PreTrainedModel, dtype: Dtype) -> PreTrainedModel:
    """Return a model whose trained weights are in `dtype`: a copy where they are not."""
    wanted = getattr(torch, dtype)
    if all(p.dtype == wanted for p in trained(model)):
        return model
    return _cast(copy_shared(model), dtype)


def hidden_size(model: PreTrainedModel) -> int:
    """Return the width of a model's states."""
    return int(model.config.get_text_config().hidden_size)


def trunk_of(model: PreTrainedModel) -> nn.Module:
    """Return the part of a causal language model below its output head."""
    trunk = model.base_model
    assert isinstance(trunk, nn.Module)
    return trunk


def layers_of(model: nn.Module) -> Sequence[nn.Module]:
    """Return the layers of a model, which are alike; none where it has no list of them."""
    lists = (part for part in model.modules() if isinstance(part, nn.ModuleList))
    return tuple(next(lists, ()))


def copy_shared(model: _Module) -> _Module:
    """Copy a model; frozen parameters are shared with the copy, trained ones are its own.

    What is compiled of it is not in the copy.
    """
    return copy.deepcopy(model, {id(p): p for p in model.parameters() if not p.requires_grad})


def load_variant(
    model: PreTrainedModel, folder: Path | str, base: Path | str | None = None
) -> PreTrainedModel:
    """Load a policy of the model's family, to be trained like it.

    Where `model` is frozen, full weights are frozen too (shared with `model` where they are
    equal), and an adapter is put on them; else an adapter is merged into them.

    Args:
        folder: Of full weights, or of an adapter.
        base: Folder of the full weights under an adapter.

    """
    full = is_trainable(model)
    if is_adapter(folder):
        assert base is not None, "an adapter is nothing without its base"
        weights = load_variant(model, base)
        return merged(weights, folder) if full else with_adapter(weights, folder)
    other = load_model(folder, model.device)
    if full:
        return other
    frozen(other, "bfloat16" if model.dtype == torch.bfloat16 else "float32")
    theirs = dict(other.named_parameters())
    if all(torch.equal(p, theirs[name]) for name, p in model.named_parameters()):
        return copy_shared(model)
    return other


def is_trainable(model: nn.Module) -> bool:
    """Say whether training changes anything of a model."""
    return any(p.requires_grad for p in model.parameters())


def trained(model: nn.Module) -> Iterator[nn.Parameter]:
    """Return the parameters that training changes."""
    return (p for p in model.parameters() if p.requires_grad)


class ScalarModel(nn.Module):
    """A language model's trunk with one number per token: a reward model or a critic."""

    def __init__(self, model: PreTrainedModel, seed: int, dtype: Dtype = "float32") -> None:
        """Take the trunk of `model` (not copied); the head is drawn N(0, 0.3/sqrt(d+1)).

        Stiennon et al. 2020 (arXiv:2009.01325), appendix B, draw it with 1/sqrt(d+1): that begins
        with a taste of its own, which the few dozen steps that a small number of votes is worth do
        not undo. It stays sure of itself, and wrong.
        """
        super().__init__()
        self.trunk = trunk_of(model)
        self.dtype: Dtype = dtype
        width = hidden_size(model)
        self.head = nn.Linear(width, 1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            std = 0.3 / math.sqrt(width + 1)
            self.head.weight.normal_(0, std, generator=generator)
            self.head.bias.zero_()

    def forward(self, batch: AnswerBatch) -> Tensor:
        """Return a number for every token of the flattened rows."""
        values: Tensor = self.head(self.states(batch)).squeeze(-1)
        return values

    def states(self, batch: AnswerBatch) -> Tensor:
        """Return the last state at every token of the flattened rows, [RT, H]."""
        with compute_in(self.dtype, batch.ids_RT):
            states: Tensor = self.trunk(**model_inputs(batch)).last_hidden_state
        return states.flatten(0, 1).float()


def model_inputs(batch: AnswerBatch) -> dict[str, Any]:
    """Return the arguments of a trunk, or of a whole model, for a batch of answers."""
    if batch.attention_mask_R1TT is None:  # causal is all it takes, and the padding comes last
        return {"input_ids": batch.ids_RT, "use_cache": False}
    return {
        "input_ids": batch.ids_RT,
        "position_ids": batch.positions_RT,
        "attention_mask": batch.attention_mask_R1TT,
        "use_cache": False,
    }


def choices(model: PreTrainedModel, batch: AnswerBatch, dtype: Dtype) -> tuple[Tensor, Tensor]:
    """Return logits where a token of an answer was chosen, [N, V], and the states there, [N, H].

    The output head sees nothing else, so that no logits are made of the prompt.
    """
    head = model.get_output_embeddings()
    kept: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept.append(arguments[0].flatten(0, 1)[batch.state_index_N])
        return (kept[0],)

    hook = head.register_forward_pre_hook(keep)
    try:
        with compute_in(dtype, batch.ids_RT):
            logits_NV: Tensor = model(**model_inputs(batch)).logits
    finally:
        hook.remove()
    return logits_NV, kept[0]


def positions(mask_BT: Tensor) -> Tensor:
    """Return each real token its position in its own row, whichever side the padding is on."""
    return (mask_BT.long().cumsum(-1) - 1).clamp_min(0)
