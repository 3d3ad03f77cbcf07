"""Next-token training on packed rows, as used by pre-training and supervised fine-tuning."""

import math
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW
from transformers import PreTrainedModel

from learner.data.packing import IGNORED, Rows, batches
from learner.models.parameters import trainable_parameters
from learner.models.precision import compute_in
from learner.models.training_state import capture_state, load_state, restore_state, save_state
from learner.pretraining.progress import Advance, OnAdvance
from learner.settings import Dtype, PretrainSettings, SftSettings


@dataclass(frozen=True, slots=True)
class TrainingStage:
    """One training run over packed rows.

    Attributes:
        name: Name of the stage, as shown to users.
        state: File with the state to resume from.
        key: Text that names all inputs of the run besides its settings (the data, the base).
        dtype: Format to compute matrix products in.
        settings: Hyperparameters.

    """

    name: str
    state: Path
    key: str
    dtype: Dtype
    settings: PretrainSettings | SftSettings


def learning_rate(step: int, steps: int, *, peak: float, warmup_ratio: float) -> float:
    """Return a step's learning rate: linear warm-up, then cosine decay to a tenth of the peak."""
    warmup = max(1, round(steps * warmup_ratio))
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def next_token_loss(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of the labels in nats.

    The logits at each position predict the label of the next.
    """
    return F.cross_entropy(
        logits_BTV[:, :-1].flatten(0, 1).float(),
        labels_BT[:, 1:].flatten(),
        ignore_index=IGNORED,
    )


def rows_loss(model: PreTrainedModel, rows: Rows) -> Tensor:
    """Return the mean negative log-likelihood of the rows' labels in nats.

    The rows must be on the model's device.
    """
    return next_token_loss(_logits(model, rows), rows.labels_NT)


def rows_divergence(
    model: PreTrainedModel, reference: PreTrainedModel, rows: Rows
) -> tuple[Tensor, Tensor]:
    """Compute KL(reference, model) and the loss where rows have labels, both means in nats.

    On text that the reference generated, the two differ on average by a constant. The divergence
    is preferable as a loss, because its gradient is zero as long as the model is the reference.

    Returns:
        The divergence, and the loss without gradient.

    """
    labels_BT = rows.labels_NT[:, 1:]
    with torch.no_grad():
        reference_MV = (
            _logits(reference, rows)[:, :-1][labels_BT != IGNORED].float().log_softmax(-1)
        )
    log_probs_MV = _logits(model, rows)[:, :-1][labels_BT != IGNORED].float().log_softmax(-1)
    divergence = F.kl_div(log_probs_MV, reference_MV, reduction="batchmean", log_target=True)
    return divergence, F.nll_loss(log_probs_MV.detach(), labels_BT[labels_BT != IGNORED])


def _logits(model: PreTrainedModel, rows: Rows) -> Tensor:
    logits_BTV: Tensor = model(
        input_ids=rows.input_ids_NT, position_ids=rows.positions_NT, use_cache=False
    ).logits
    return logits_BTV


def adamw(model: PreTrainedModel, *, learning_rate: float, weight_decay: float) -> AdamW:
    """Return AdamW with weight decay on matrices only, not on norms."""
    parameters = list(trainable_parameters(model))
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)


def train(model: PreTrainedModel, rows: Rows, stage: TrainingStage, on_advance: OnAdvance) -> None:
    """Train the model on the settings' number of tokens, resuming from the stage's state file.

    On the same machine and number of threads, an interrupted and resumed run gives the same
    weights bit for bit.
    """
    settings = stage.settings
    size = max(1, settings.batch_tokens // settings.row)
    steps = max(1, math.ceil(settings.tokens / (size * settings.row)))
    key = f"{stage.key} {settings.model_dump_json()} {stage.dtype}"
    optimizer = adamw(
        model, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay
    )
    state = load_state(stage.state)
    first = restore_state(state, model, optimizer, key) if state else 0
    model.train()
    if settings.compiled:
        model.model.compile()
    saved = started = time.monotonic()
    order = batches(rows, size=size, steps=steps, seed=settings.seed)
    for step, picked in enumerate(islice(order, first, None), start=first):
        rate = learning_rate(
            step, steps, peak=settings.learning_rate, warmup_ratio=settings.warmup_ratio
        )
        loss = _step(model, optimizer, rows.select(picked, model.device), rate, stage)
        now = time.monotonic()
        speed = (step + 1 - first) * size * settings.row / (now - started)
        on_advance(Advance(stage.name, step + 1, steps, loss, tokens_per_second=speed))
        if now - saved >= settings.checkpoint_seconds and step + 1 < steps:
            save_state(stage.state, capture_state(model, optimizer, step + 1, key))
            saved = time.monotonic()
    model.eval()


def _step(
    model: PreTrainedModel, optimizer: AdamW, rows: Rows, rate: float, stage: TrainingStage
) -> float:
    """Take one optimizer step on the rows and return their loss."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    with compute_in(stage.dtype, rows.input_ids_NT):
        loss = rows_loss(model, rows)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(trainable_parameters(model), stage.settings.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


@torch.no_grad()
def text_nll(model: PreTrainedModel, rows: Rows, *, batch: int = 16) -> float:
    """Return the mean negative log-likelihood of the rows' labels, in nats per token."""
    total = 0.0
    count = 0
    for start in range(0, len(rows), batch):
        part = slice(start, start + batch)
        labels = rows.count_labels(part)
        total += rows_loss(model, rows.select(part, model.device)).item() * labels
        count += labels
    return total / max(1, count)
